"""The command line as a user meets it: its help, its speed, and what goes well. What can be wrong: test_cli_errors.py."""

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from servers import TeacherServer
from small import command, environment, here, workbench, write_task
from typer.testing import CliRunner

from workbench.cli import app

VERBS = ("run", "new", "list", "check", "predict", "eval", "report", "why", "estimate", "teachers", "audit", "rejudge",
         "coverage", "tune-teacher", "compare", "cascade", "licences", "ledger", "ledger export",
         "settings", "split", "models", "models list", "models fetch", "models path")  # fmt: skip
HEAVY = ("torch", "transformers", "dspy", "xllamacpp", "cyllama", "peft", "bitsandbytes", "openai", "numpy", "gguf")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


# --- help and speed ---


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    shown = CliRunner().invoke(app, [*verb.split(), "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output
    described = shown.output.split("\n\n")[1].strip()
    assert described.endswith("."), "one sentence on what it does"


def test_the_list_of_verbs_is_whole() -> None:
    named = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named | {group.name for group in app.registered_groups} == {verb.split()[0] for verb in VERBS}


def test_nothing_heavy_is_loaded() -> None:
    code = f"import sys, workbench.cli; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_is_quick() -> None:
    """The processor's time, the least of five: it waits for nothing, but this machine may be busy with other tests.
    The first call leaves bytecode behind, as it does for a user."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    taken = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command("--help"), capture_output=True, check=True, env=environ)
        after = os.times()
        taken.append(sum(after[2:4]) - sum(before[2:4]))  # of children, user and system
    assert 0 < min(taken) < 0.5, taken


# --- what goes well ---


def test_a_dry_run_does_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = here(project, "run", "talk.py", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()][:4] == ["examples", "shots", "sample", "select"]
    assert "would run" in done.stdout
    made = {path.name for path in set(project.rglob("*")) - set(before)}
    assert not made & {"runs", "store"}


ELSEWHERE = """
import sys
from pathlib import Path
from workbench import judge, plan, registry
if __name__ == "__main__":
    task = registry.load("talk")
    example = task.examples("dev")[0]
    pool = judge.processes(task, 1)  # another process makes the task anew
    print(pool.submit(judge._heavy_checks, example, "[]").result())
    pool.shutdown()
    before = plan.code_digest(task)
    Path(sys.argv[1]).write_text("DO_IT = 'Otherwise.'")
    print(plan.code_digest(task) != before)  # the package's other modules count
"""


def test_a_task_from_an_outside_package(tmp_path: Path) -> None:
    """A wheel with an entry point in the group `workbench.tasks`, installed by pip."""
    made, site, empty = tmp_path / "made", tmp_path / "site", tmp_path / "elsewhere"
    empty.mkdir()
    file = write_task(made / "outside_tasks")
    (made / "outside_tasks" / "__init__.py").write_text("")
    (made / "outside_tasks" / "words.py").write_text('DO_IT = "Turn what is said into calls."\n')
    file.write_text("from .words import DO_IT\n" + file.read_text().replace('"Turn what is said into calls."', "DO_IT"))
    info = made / "outside_tasks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-tasks\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (info / "entry_points.txt").write_text("[workbench.tasks]\ntalk = outside_tasks.talk:talk\n")
    files = [path for path in made.rglob("*") if path.is_file()]
    (info / "RECORD").write_text("".join(f"{path.relative_to(made)},,\n" for path in [*files, info / "RECORD"]))
    wheel = tmp_path / "outside_tasks-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in [*files, info / "RECORD"]:
            archive.write(path, path.relative_to(made))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True, timeout=120)
    listed = workbench(empty, "list", PYTHONPATH=str(site))
    assert f"{'talk':18} Turn one request into calls." in listed.stdout, listed.stderr
    assert str(site / "outside_tasks" / "talk.py") in listed.stdout
    assert "phone_actions" in listed.stdout
    checked = workbench(empty, "check", "talk", PYTHONPATH=str(site))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert workbench(empty, "check", "talk").returncode == 1, "without the package there is no such task"
    told = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(site / "outside_tasks" / "words.py")], cwd=empty,
        env=environment(PYTHONPATH=str(site)), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert told.stdout.split() == ["()", "True"], told.stderr


def test_an_entry_point_whose_package_is_broken(tmp_path: Path) -> None:
    info = tmp_path / "lost-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lost\nVersion: 1.0\n")
    for module in ("lost_module", "lost_package.module"):
        (info / "entry_points.txt").write_text(f"[workbench.tasks]\nlost = {module}:lost\n")
        done = workbench(tmp_path, "list", PYTHONPATH=str(tmp_path))
        assert done.returncode == 0
        assert "phone_actions" in done.stdout
        assert f"entry point 'lost' names {module}, which is not there" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_lock_file_can_be_read(project: Path) -> None:
    here(project, "run", "talk.py", "--until", "examples")
    (lock,) = project.glob("runs/talk/*Z-*/lock.json")
    written = json.loads(lock.read_text())
    assert [entry["stage"] for entry in written["stages"]] == ["examples"]
    assert written["command"] == "workbench run talk.py --until examples"


def test_an_estimate_is_an_upper_bound_and_asks_nothing(project: Path) -> None:
    done = here(project, "estimate", "talk.py", "--set", "sample.inverse=60")
    assert done.returncode == 0, done.stderr
    inputs = next(line.split() for line in done.stdout.splitlines() if line.startswith("write inputs"))
    assert inputs[2] == "60" and "at most" in done.stdout
    sets = ("--set", "sample.inverse=60", "--set", "distil.attempts=30")
    more = here(project, "estimate", "talk.py", "--method", "dagger", *sets)
    steps = {line[:18].strip(): line[18:].split() for line in more.stdout.splitlines()}
    assert steps["write inputs"][0] == "120", "each of two rounds writes its own"
    assert steps["answer inputs"][0] == "30", "at what the student may fail the teacher is asked"
    assert not (project / ".workbench").exists()


UNPRICED = "no price is known for mine: max_money stops nothing; set teacher.price_in and teacher.price_out"


def test_a_price_that_nobody_knows_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_TEST_KEY", "key")
    api = ["--set", "teacher.base_url=https://api.example.com/v1", "--set", "teacher.key_env=WORKBENCH_TEST_KEY"]
    for verb in (["estimate"], ["run", "--dry-run"]):
        command = [verb[0], "talk.py", *verb[1:]]
        assert UNPRICED in here(project, *command, "--teacher", "mine", *api).stdout.splitlines()
        assert (
            "no price" not in here(project, *command, "--teacher", "mine", *api, "--set", "teacher.price_in=0").stdout
        )
        assert "no price" not in here(project, *command).stdout, "what runs here costs no money"


def test_every_verb_with_settings_takes_a_file_of_them(project: Path) -> None:
    """Whose profile holds: each would else be quick, or full."""
    (project / "mine.toml").write_text("[train]\nlrr = 3\n")
    for verb in ("run", "estimate", "compare", "cascade --sizes 1x1", "teachers --teacher x", "tune-teacher"):
        name, *options = verb.split()
        done = here(project, name, "talk.py", *options, "--config", "mine.toml")
        assert done.stderr.splitlines()[0] == "error: mine.toml: train.lrr: there is no such setting", verb


def test_an_estimate_knows_students_and_methods(project: Path) -> None:
    assert here(project, "estimate", "talk.py", "--student", "smollm2-135m-instruct", "--method", "qat").returncode == 0
    assert "there is no method 'magic'" in here(project, "estimate", "talk.py", "--method", "magic").stderr


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        (
            "compare --methods sft,qat,sft --seeds 3",
            "6 trainings, 2 x 3 (methods x seeds): at most 7 minutes each, after at most ",
        ),
        ("compare --methods sft --seeds 1", "1 training, 1 x 1 (methods x seeds): at most 7 minutes each"),
        ("compare --methods sft --set train.max_steps=9", "at most 9 steps each"),
        ("cascade --sizes 30x1024,30x512", "3 trainings (the student and 2 pruned from it): at most 7 minutes each"),
    ],
)
def test_what_begins_with_hours_of_work_says_so(project: Path, smollm2: Path, verb: str, says: str) -> None:
    name, *options = verb.split()
    done = here(
        project, name, "talk.py", "--dry-run", "--set", "train.max_minutes=7", "--student", str(smollm2), *options
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "train     would run" in done.stdout and "evaluate" not in done.stdout
    assert not (project / "compare").exists() and not (project / "runs").exists()


def test_the_version() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"workbench {version('distillation-workbench')}\n")


def test_an_estimate_from_real_requests(project: Path) -> None:
    """The server counts words: a `[]` is one token of two characters each time, so this rate has no width."""
    with TeacherServer(project / "log", text="[]") as server:
        sets = [
            f"teacher.base_url={server.base_url}",
            "teacher.price_in=1000",
            "teacher.price_out=500",
            "shots.mode=group",
        ]
        command = ["estimate", "talk.py", "--teacher", "fake", "--ask", "4", *(p for s in sets for p in ("--set", s))]
        done = here(project, *command)
        assert done.returncode == 0, done.stderr
        again = here(project, *command)
        assert server.count == 4 and again.stdout == done.stdout, "what the ledger holds is not asked again"
    number = r"([\d,.]+) \(([\d,.]+) to ([\d,.]+)\)"
    told = re.search(f"tokens in {number}, out {number}, as 4 requests say", done.stdout)
    money = re.search(f"at 1000 and 500 a million tokens: at most {number} in money", done.stdout)
    assert told and money and re.search(f"at most {number} minutes, at the pace of these 4", done.stdout)
    read, low, high, wrote, *ends = (int(part.replace(",", "")) for part in told.groups())
    assert low < read < high and ends == [wrote, wrote]
    assert float(money[1]) == pytest.approx((read * 1000 + wrote * 500) / 1e6, abs=0.01)
