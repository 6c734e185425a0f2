"""Rounds: what each stage is given, which round ships, and the walk itself on real models, as small as they come."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import TeacherServer
from small import calling, here, opening, timer, write_task

from workbench import pipeline, plan, registry
from workbench.config import Config
from workbench.plan import Stage, inputs_of, stages
from workbench.runs import read_lock
from workbench.stages.context import write_json
from workbench.stages.failures import Failures
from workbench.store import Artifact, File, Manifest

TWO = Config.model_validate({"rounds": {"count": 2}})


def test_one_round_is_the_plan_itself() -> None:
    assert stages(Config()) == plan.STAGES


def test_a_later_round_begins_with_what_the_one_before_made() -> None:
    found = {stage.label: inputs_of(stage, 1) for stage in stages(TWO)}
    assert list(found)[-6:] == ["sample.2", "select.2", "train.2", "merge.2", "export.2", "evaluate"]
    assert found["sample.2"] == {
        "examples": "examples", "shots": "shots", "sample before": "sample", "export before": "export",
    }  # fmt: skip
    assert found["select.2"] == {"examples": "examples", "sample": "sample.2"}
    assert found["train.2"] == {"examples": "examples", "select": "select.2", "train before": "train"}
    assert found["export.2"]["merge"] == "merge.2"


@pytest.mark.parametrize(
    ("scores", "walked", "kept"),
    [([50, 60, 55], 3, 2), ([50, 50], 2, 1), ([50, 40], 2, 1), ([50, 60, 70], 3, 3), ([50, 60, 60], 3, 2)],
)
def test_a_round_that_gains_nothing_ends_it(
    scores: list[float], walked: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages do nothing here but write what the walk looks at."""
    task = registry.load(str(write_task(tmp_path)))
    ran: list[str] = []

    def made(stage: Stage, key: str, parts: object, store: object, context: object) -> Artifact:
        ran.append(stage.label)
        folder = tmp_path / stage.label
        folder.mkdir()
        if stage.name == "export":
            score = scores[stage.round - 1]
            write_json(folder / "export.json", {"files": [{"name": "Q8_0", "dev_exact": score}], "chosen": "Q8_0"})
        file = File(name=stage.label, size_bytes=0, sha256="")
        return Artifact(folder, Manifest(stage=stage.name, key=key, inputs={}, files=(file,), created=""))

    monkeypatch.setattr(pipeline, "_run", made)
    said: list[str] = []
    config = Config.model_validate({"rounds": {"count": 3}})
    done = pipeline.walk(task, config, tmp_path / "root", say=said.append, done=lambda _: None)
    assert ran[-1] == "evaluate" and ran.count(plan.label("export", walked)) == 1
    assert plan.label("export", walked + 1) not in ran
    assert done[-1].kept == kept
    assert done[-1].made_of["inputs"]["export"] == next(
        one.artifact.digest for one in done if one.stage.label == plan.label("export", kept) and one.artifact
    ), "what is evaluated is the round that ships"
    assert any("no gain" in line for line in said) is (kept < walked)


def test_failures_say_where_to_look(tmp_path: Path) -> None:
    task = registry.load(str(write_task(tmp_path)))
    wrong = [task.example({"text": "7 minutes, soft eggs"}, split="dev", target=[timer(7, "soft eggs")])]
    failures = Failures(task.output, wrong)
    assert failures.weight([timer(8, "hard eggs")]) > failures.weight([timer(30)]) > failures.weight([opening("maps")])
    near, far = (task.example({"text": text}, split="new") for text in ("9 minutes for soft eggs", "call Zoe"))
    assert failures.likeness(near) > failures.likeness(far)


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[TeacherServer]:
    with TeacherServer(tmp_path / "log") as server:
        yield server


def test_two_rounds_of_a_real_student(tiny: Path, teacher: TeacherServer, tmp_path: Path) -> None:
    """Of random weights, so that it learns nothing in three steps: the second round is walked, and the first one ships."""
    write_task(tmp_path)
    sets = (f"teacher.base_url={teacher.base_url}", "shots.mode=fixed", "sample.inverse=20", "sample.values_per_slot=0",
            "sample.candidates=1", "select.recombine=20", "train.max_steps=3", "train.evals=1", "export.quants=['Q8_0']",
            "export.importance=false", "export.max_ratio=1", "evaluate.base_rows=0", "evaluate.timed=1",
            "student.max_tokens=8", "rounds.count=2", "sample.max_calls=200")  # fmt: skip
    arguments = [
        "run",
        "talk.py",
        "--teacher",
        "fake",
        "--student",
        str(tiny),
        *(w for s in sets for w in ("--set", s)),
    ]
    done = here(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 2: dev exact 0.0 -> 0.0, no gain: the rounds end" in done.stdout
    run = (tmp_path / "runs" / "talk" / "latest").resolve()
    lock = read_lock(run)
    assert lock.kept == 1 and lock.entry("export") == lock.exactly("export") != lock.exactly("export.2")
    first, second = (Path(lock.exactly(name).path) for name in ("sample", "sample.2"))  # type: ignore[union-attr]
    lines = [(folder / "candidates.jsonl").read_text().splitlines() for folder in (first, second)]
    assert lines[1][: len(lines[0])] == lines[0], "what was found before is kept"
    assert len(lines[1]) > len(lines[0])
    told = [json.loads((folder / "funnel.json").read_text()) for folder in (first, second)]
    assert told[1]["candidates"] == len(lines[1])
    assert max(one["calls"] for one in told) <= 200, "both rounds together"
    report = (run / "report.md").read_text()
    assert "## Round by round" in report and "| 1 (shipped) |" in report
    assert "Round by round" in (run / "report.html").read_text()

    sent = teacher.count
    again = here(tmp_path, *arguments)
    assert again.stdout.count("skipped, nothing changed") == 13, again.stdout
    assert teacher.count == sent


def test_training_goes_on_from_an_adapter(tiny: Path, tmp_path: Path) -> None:
    from workbench.students.qlora import train
    from workbench.students.settings import Pair, TrainConfig

    rows = [Pair(prompt=f"open {name}", completion=json.dumps([opening(name)])) for name in ("maps", "chess", "mail")]
    rows += [Pair(prompt="call Zoe", completion=json.dumps([calling("Zoe")]))]
    config = TrainConfig(r=8, lr=1e-2, epochs=6, tokens_per_step=120, evals=1, quantize_base="nf4", dropout=0.0)
    begun, on, anew = (tmp_path / name for name in ("begun", "on", "anew"))
    start = train(tiny, rows, rows, config, begun, lambda _: None)
    train(tiny, rows, rows, config, on, lambda _: None, start=start)
    train(tiny, rows, rows, config, anew, lambda _: None)

    def looked(work: Path) -> list[float]:
        lines = [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]
        return [line["dev_loss"] for line in lines if "dev_loss" in line]

    best = json.loads((begun / "summary.json").read_text())["dev_loss"]
    assert looked(on)[0] == pytest.approx(best, rel=1e-3), "before its first step it is where the other ended"
    assert looked(anew)[0] > looked(on)[0] > looked(on)[-1]
