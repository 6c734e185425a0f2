"""`workbench ledger export`: each candidate of a run with its verdict, read back from what was written."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import TeacherServer
from small import here, sampling, write_task

from workbench.dataset import flat
from workbench.stages.context import read_jsonl
from workbench.types import Judgement


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run up to its shard."""
    project = tmp_path_factory.mktemp("project")
    write_task(project)
    with TeacherServer(project / "log.jsonl") as server:
        done = here(project, *sampling(server.base_url, "teacher.licence=CC0-1.0"))
        assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = project.glob("runs/talk/*Z-*")
    return folder


def exported(run: Path, to: Path, *options: str) -> str:
    done = here(run.parents[2], "ledger", "export", run.name, "--to", str(to), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip()


def error(run: Path, to: Path, *options: str) -> tuple[str, str]:
    done = here(run.parents[2], "ledger", "export", run.name, "--to", str(to), *options)
    assert done.returncode == 1, done.stdout
    first, hint = done.stderr.splitlines()
    return first.removeprefix("error: "), hint.removeprefix("next:  ")


@pytest.fixture(params=["jsonl", "parquet"])
def form(request: pytest.FixtureRequest) -> str:
    if request.param == "parquet":
        pytest.importorskip("pyarrow", reason="the extra `export` is not installed")
    return str(request.param)


def candidates(run: Path) -> list[Judgement]:
    lock = json.loads((run / "lock.json").read_text())
    (path,) = (Path(entry["path"]) for entry in lock["stages"] if entry["stage"] == "sample")
    return list(read_jsonl(path / "candidates.jsonl", Judgement))


def rows_of(folder: Path, form: str) -> list[dict[str, Any]]:
    path = folder / "data" / f"train-00000-of-00001.{form}"
    if form == "parquet":
        from pyarrow.parquet import read_table

        return list(read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_export_holds_every_candidate_with_its_verdict(run: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "deep" / "folder"
    exported(run, folder, "--format", form)
    judged = candidates(run)
    outcomes = Counter(item.verdict.outcome for item in judged)
    assert outcomes["pass"] and outcomes["fail"], "the toy teacher leaves words out"
    rows = rows_of(folder, form)
    for row, item in zip(rows, judged, strict=True):
        assert row["input_text"] == item.candidate.example.input.get("text")
        assert (row["id"], row["text"]) == (item.candidate.example.id, item.candidate.text)
        assert (row["outcome"], row["reason"]) == (item.verdict.outcome, item.verdict.reason)
        assert row["checks"] == [check.model_dump() for check in item.verdict.checks]
        assert (row["source"], row["call"]) == (item.candidate.source, item.candidate.call)
        assert (row["teacher"], row["licence"], row["logprob"]) == (item.teacher, "CC0-1.0", item.candidate.logprob)
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "cc0-1.0"
    assert head["workbench"] == {"task": "talk", "run": run.name, "rows": dict(outcomes)}
    assert [feature["name"] for feature in head["dataset_info"]["features"]] == list(rows[0])
    assert f"| pass | {outcomes['pass']} |" in card
    assert sorted(path.name for path in folder.parent.iterdir()) == ["folder"], "nothing half-written stays"


def test_datasets_reads_it(run: Path, tmp_path: Path, form: str) -> None:
    datasets = pytest.importorskip("datasets", reason="the export is read back by `datasets` where that is installed")
    folder = tmp_path / "folder"
    exported(run, folder, "--format", form)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert list(loaded["train"]) == rows_of(folder, form)
    assert loaded["train"].features["logprob"].dtype == "float64", "though no row has one"


def test_what_an_arrow_column_cannot_hold_is_json() -> None:
    def judged(**given: Any) -> Judgement:
        example = {"id": "i", "input": given, "split": "new"}
        candidate = {"example": example, "text": "[]", "call": "c", "source": "corpus", "logprob": -0.5}
        verdict = {"outcome": "pass", "checks": []}
        return Judgement.model_validate({"candidate": candidate, "verdict": verdict, "teacher": "t", "licence": ""})

    made = flat(
        [judged(a="x", n=1, x=1, t=True, tools=[{"n": "é"}], v=1), judged(a="y", n=2, x=0.5, v="one"), judged(n=2**70)]
    )
    kinds = ("string", "string", "float64", "bool", "string", "string")
    assert [made.kinds[f"input_{name}"] for name in ("a", "n", "x", "t", "tools", "v")] == list(kinds)
    assert made.as_json == ("input_n", "input_tools", "input_v")
    assert made.rows[0]["input_tools"] == '[{"n": "é"}]'
    assert [row["input_v"] for row in made.rows] == ["1", '"one"', None]
    assert [row["input_n"] for row in made.rows] == ["1", "2", str(2**70)]


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for to in (tmp_path, tmp_path / "mine.txt"):
        said, hint = error(run, to, "--format", "jsonl")
        assert said == f"{to} is there already, and is left as it is"
        assert "new or empty" in hint
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    exported(run, tmp_path / "empty", "--format", "jsonl")


def test_without_pyarrow(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said, hint = error(run, tmp_path / "folder", "--format", "parquet")
    assert said == "Parquet wants pyarrow, which is not installed"
    assert hint == "pip install pyarrow, or --format jsonl"
    assert error(run, tmp_path / "folder", "--format", "csv")[1] == "parquet or jsonl"
    assert exported(run, tmp_path / "folder").endswith(" as jsonl")


@pytest.mark.parametrize(
    ("until", "says"),
    [("examples", "did not get as far as its candidates"), ("sample", "has no candidates: no teacher wrote any")],
)
def test_a_run_without_candidates(tmp_path: Path, until: str, says: str) -> None:
    """Stopped before its sampling; or its task asks nothing of a teacher."""
    file = write_task(tmp_path)
    file.write_text(file.read_text().replace('"recombine", "inverse"', '"recombine"'))
    settings = ("shots.mode=group", "teacher.base_url=http://localhost:1/v1")
    sets = [word for setting in settings for word in ("--set", setting)]
    done = here(tmp_path, "run", "talk.py", "--until", until, "--teacher", "fake", *sets)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/talk/*Z-*")
    said, hint = error(run, tmp_path / "folder")
    assert said == f"{run.name} {says}"
    assert hint
    assert not (tmp_path / "folder").exists()
