"""Each thing that can be wrong with a run, its models, teachers and the machine, told in two lines without a traceback."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import TeacherServer
from small import ROWS, Told, command, environment, here, sampling, write_rows, write_task
from typer.testing import CliRunner

from workbench import registry
from workbench.cli import app, main
from workbench.errors import LockedError
from workbench.runs import newest_run
from workbench.store import RunLock

BARE_TOKENIZER = json.dumps(
    {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1, "<pad>": 2}, "unk_token": "a"},
     "added_tokens": [{"id": n, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                       "normalized": False} for n, text in ((1, "</s>"), (2, "<pad>"))]}
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["report", "talk"], ["why", "talk", "train"], ["predict", "talk.py", "open maps"], ["eval", "talk.py"]],
)
def test_a_run_that_is_not_there(fails: Told, arguments: list[str]) -> None:
    error, hint = fails(*arguments)
    assert error.startswith("there is no run 'talk'")
    assert "workbench run" in hint


def test_a_run_that_was_stopped_early(project: Path, fails: Told) -> None:
    done = here(project, "run", "talk.py", "--until", "examples")
    assert done.returncode == 0, done.stderr
    assert "model" not in done.stdout, "what is not needed is not fetched"
    (run,) = (project / "runs" / "talk").glob("*Z-*")
    assert "did not get as far as its evaluation" in fails("report", str(run))[0]
    for name in ("talk", "talk.py"):
        error, hint = fails("report", name)
        assert error == f"no run of talk has finished: the newest, {run.name}, ended early"
        assert hint.startswith("it was begun with `workbench run talk.py --until examples`")
        assert here(project, "why", name, "examples").stdout.startswith("examples ran because")
        assert fails("why", name, "shots") == (f"{run.name} did not get as far as shots", "its stages: examples")
    error, hint = fails("why", str(run), "trian")
    assert (error, hint) == ("'trian' is no stage of this run", "its stages: examples")
    for verb in (["predict", "talk.py", "open maps"], ["eval", "talk.py"]):
        error, hint = fails(*verb, "--run", run.name)
        assert "did not get as far as" in error
        assert hint
    why = here(project, "why", run.name, "examples").stdout
    assert why == "examples ran because no run before had got this far.\n"


@pytest.mark.parametrize("methods", ["", " , "])
def test_no_method_to_compare(fails: Told, methods: str) -> None:
    error, hint = fails("compare", "talk.py", "--methods", methods)
    assert error == "--methods: name at least one method"
    assert "sft, kd" in hint


def test_a_split_that_is_none(fails: Told) -> None:
    assert fails("eval", "talk.py", "--split", "train") == ("there is no split 'train' to score", "dev or test")


def test_a_newer_run_that_did_not_finish(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is of the last that did, and says so; why is about the newest."""
    here(project, "run", "talk.py", "--until", "examples")
    (first,) = (project / "runs" / "talk").glob("*Z-*")
    (first.parent / "latest").symlink_to(first.name)
    assert "did not finish" not in here(project, "report", "talk").stderr
    newer = first.with_name("99990101T000000Z-abcdef")
    shutil.copytree(first, newer)
    told = here(project, "report", "talk").stderr
    assert f"the newest run, {newer.name}, did not finish; this is the report of {first.name}" in told
    assert "did not finish" not in here(project, "report", str(first)).stderr, "that one was asked for"
    monkeypatch.chdir(project)
    assert newest_run(project, "talk.py").name == newer.name


def test_a_task_file_without_its_ending(fails: Told) -> None:
    error, hint = fails("run", "talk")
    assert error == "no task is called 'talk'"
    assert hint.startswith("did you mean talk.py?")


def test_a_hint_can_be_typed_as_it_stands(project: Path, fails: Told) -> None:
    file = project / "talk.py"
    file.write_text(file.read_text().replace("        probes=[", "        lets_by=5,\n        probes=["))
    assert "`workbench check talk.py` tells more" in fails("run", "talk.py", "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "says", "next_"),
    [
        (["--student", "nonsense"], "no model is called 'nonsense'", "The path of a .gguf file"),
        (["--teacher", "/no/such.gguf"], "there is no file /no/such.gguf", "check the path"),
        (
            ["--teacher", "my-model"],
            "no model is called 'my-model', and no server is named",
            "--set teacher.base_url=URL",
        ),
        (["--teacher", "my-model"], "no model is called 'my-model'", "hf:owner/name"),
        (["--teacher", "owner/name"], "owner/name is no GGUF file", "--teacher hf:owner/name"),
        (
            ["--set", "teacher.base_url=https://api.example.com/v1"],
            "the environment variable",
            "export WORKBENCH_TEST_KEY",
        ),
        (
            ["--set", "shots.program=gone.json", "--set", "shots.mode=auto"],
            "shots.program: there is no file gone.json",
            "tune",
        ),
        (["--set", "shots.program=talk.py"], "shots.program: with shots.mode=fixed it is not tried", "shots.mode=auto"),
        (["--set", 'export.quants=["Q9"]'], "export.quants: there is no 'Q9'", "Q8_0"),
    ],
)
def test_what_a_dry_run_can_tell(
    fails: Told, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str, next_: str
) -> None:
    monkeypatch.delenv("WORKBENCH_TEST_KEY", raising=False)
    named = ["--set", "teacher.key_env=WORKBENCH_TEST_KEY"]
    verbs = [["run", "talk.py"], ["compare", "talk.py", "--methods", "sft"], ["cascade", "talk.py", "--sizes", "1x1"]]
    for verb in verbs if "fixed" not in says else verbs[:1]:  # the full profile tries a program
        error, hint = fails(*verb, "--dry-run", *named, *arguments)
        assert says in error
        assert next_ in hint
    if "--teacher" in arguments:
        assert says in fails("estimate", "talk.py", *arguments)[0]


def test_a_dry_run_reads_the_data(project: Path, fails: Told) -> None:
    (project / "talk.py").write_text((project / "talk.py").read_text().replace('"inverse")', '"corpus")'))
    assert "corpus.jsonl is missing" in fails("run", "talk.py", "--dry-run")[0]
    write_rows(project / "data" / "test.jsonl", ROWS["seeds"])
    assert "one row stands in seed and in test" in fails("run", "talk.py", "--dry-run")[0]
    (project / "data" / "dev.jsonl").unlink()
    assert "dev.jsonl is missing" in fails("run", "talk.py", "--dry-run")[0]


def test_an_address_without_its_scheme(fails: Told) -> None:
    error, hint = fails("teachers", "talk.py", "--teacher", "gpt-4o@api.openai.com")
    assert error == "--teacher gpt-4o@...: the address behind the @ lacks https://"
    assert "gpt-4o@https://" in hint


def test_a_teacher_that_does_not_answer_is_told_with_its_last_failure(project: Path) -> None:
    done = here(
        project, "teachers", "talk.py", "--teacher", "x@http://127.0.0.1:9/v1", "--rows", "2", "--set", "runtime.attempts=1"
    )  # fmt: skip
    assert done.returncode == 1
    told, hint, *_ = done.stderr.splitlines()
    assert told.startswith("x@http://127.0.0.1:9/v1: the teacher answered only 0 of 2 dev rows; the last failure: ")
    assert "cannot be reached" in told
    assert hint.startswith("is the server up, and the network?; `workbench ledger` tells the failures")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [("0x0", "a model has one block and one neuron at least"), ("40x1536", "are no less than 30 blocks, 1,536 neurons"),
     ("30x1024,30x1025", "are no less than 30 blocks, 1,024 neurons")],
)  # fmt: skip
def test_sizes_are_looked_at_before_anything_heavy(project: Path, smollm2: Path, sizes: str, says: str) -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print([n for n in ('torch', 'transformers') if n in sys.modules]));"
        "from workbench.cli import main; main()"
    )
    arguments = ["cascade", "talk.py", "--sizes", sizes, "--student", str(smollm2)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 1 and says in done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "kernels" not in done.stderr


def test_a_model_that_is_not_in_the_catalogue(fails: Told) -> None:
    for verb in ("fetch", "path"):
        error, hint = fails("models", verb, "smollm2-135m-instrukt")
        assert "smollm2-135m-instrukt" in error
        assert "smollm2-135m-instruct" in hint


def test_a_second_run_at_the_same_time(project: Path, fails: Told) -> None:
    with RunLock(project / ".workbench"):
        error, hint = fails("run", "talk.py", "--until", "examples")
    assert error.startswith(f"process {os.getpid()} (")
    assert f"is at work in {project / '.workbench'}" in error
    assert hint == f"wait for it to end, or stop it: kill {os.getpid()}"
    assert issubclass(LockedError, Exception)


def test_no_key_and_no_server(project: Path, fails: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORKBENCH_TEST_KEY", raising=False)
    arguments = sampling("https://api.example.com/v1", "teacher.key_env=WORKBENCH_TEST_KEY")
    error, hint = fails(*arguments)
    assert error == "the environment variable WORKBENCH_TEST_KEY holds no API key"
    assert "export WORKBENCH_TEST_KEY" in hint
    with TeacherServer(project / "log.jsonl") as gone:
        url = gone.base_url
    error, hint = fails(*sampling(url, "runtime.concurrency=2", "runtime.attempts=1"))
    assert "failures in a row, the last:" in error
    assert "cannot be reached" in error
    assert hint == "is the server up, and the network?"


def test_a_wrong_word_on_the_command_line() -> None:
    for arguments in (["runn"], ["run"], ["run", "talk.py", "--fast"]):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2
        assert "Traceback" not in shown.output


def test_a_student_that_could_not_be_shipped_is_told_before_the_teacher_is_asked(project: Path, fails: Told) -> None:
    """A folder without a chat template; the sampling alone has no use for it."""
    folder = project / "mute"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text(BARE_TOKENIZER)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}')
    with TeacherServer(project / "log.jsonl") as server:
        arguments = [word for word in sampling(server.base_url) if word not in {"--until", "select"}]
        error, hint = fails(*arguments, "--student", str(folder))
        assert server.count == 0
        assert here(project, *sampling(server.base_url), "--student", str(folder)).returncode == 0
    assert "has no chat template" in error
    assert "instruct model" in hint


def test_a_key_in_the_place_of_its_name_is_not_written_down(project: Path, fails: Told) -> None:
    key = "a8Kd03jfQ92mZx7LpT51vB6nYc4Ws0Er"
    error, _ = fails(*sampling("https://api.example.com/v1", f"teacher.key_env={key}"))
    assert error == "teacher.key_env: the name of an environment variable is wanted, not the key itself"
    left = [path for path in project.rglob("*") if path.is_file() and key in path.read_text(errors="replace")]
    assert left == []


def test_files_that_cannot_be_read(project: Path, fails: Told) -> None:
    dev = project / "data" / "dev.jsonl"
    dev.unlink()
    dev.mkdir()
    error, _ = fails("run", "talk.py", "--until", "examples")
    assert "dev.jsonl cannot be read: Is a directory" in error
    (project / "talk.py").write_text("import sys\nsys.exit(3)\n")
    error, _ = fails("check", "talk.py")
    assert "talk.py, line 2: SystemExit: 3" in error


@pytest.mark.parametrize(
    ("code", "says", "mend"),
    [(errno.ENOSPC, "the disk is full: ", "free some space"), (errno.EACCES, "", "look at the file, its permissions")],
)
def test_a_file_that_cannot_be_written(
    code: int, says: str, mend: str, fails: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise OSError(code, os.strerror(code), name)

    monkeypatch.setattr(registry, "load", broken)
    error, hint = fails("run", "talk.py")
    assert error == f"{says}[Errno {code}] {os.strerror(code)}: 'talk.py'"
    assert hint.startswith(mend) and hint.endswith("then run the same command: it goes on where it was")


def test_our_own_fault_is_not_told_as_the_disks(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ConnectionError("a bug")

    monkeypatch.setattr(registry, "load", broken)
    monkeypatch.setattr(sys, "argv", ["workbench", "run", "talk.py"])
    with pytest.raises(ConnectionError, match="a bug"):
        main()


def test_ctrl_c_says_how_to_go_on(project: Path) -> None:
    # A shell's background jobs, of which this may be one, ignore the signal.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    with TeacherServer(project / "log.jsonl", latency_s=0.1) as server:
        python, option, code, *arguments = command(*sampling(server.base_url))
        process = subprocess.Popen(
            [python, option, f"{listening}; {code}", *arguments], cwd=project, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while server.count < 12 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip() == "stopped; the same command goes on where it was"
