"""What the report tells of the test rows that were met on the way."""

from pathlib import Path

import pytest
from small import opening, write_task

from workbench import registry
from workbench.declaration import Task
from workbench.report.build import _alike, _leaks
from workbench.stages.context import write_json, write_jsonl
from workbench.stages.evaluate import Given

RESULTS = {"chosen": "Q8_0"}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return registry.load(str(write_task(tmp_path / "project")))


def artifacts(task: Task, folder: Path, met: dict[str, list[str]], rows: int) -> dict[str, Path]:
    """Of a run in which the shipped file had the first test row alone right, and the teacher all but the first."""
    art = {name: folder / name for name in ("examples", "select", "evaluate")}
    for path in art.values():
        path.mkdir()
    tests = task.examples("test")[:rows]
    write_jsonl(art["examples"] / "examples.jsonl", tests)
    write_json(art["select"] / "leaks.json", met)
    write_jsonl(art["evaluate"] / "answers.jsonl", [
        Given(entrant=entrant, example=row.id, text=task.output.dump(row.target if right else [opening("chess")]))
        for place, row in enumerate(tests)
        for entrant, right in (("Q8_0", place == 0), ("teacher", place > 0))
    ])  # fmt: skip
    return art


def test_scores_without_the_rows_that_were_met(task: Task, tmp_path: Path) -> None:
    first = task.examples("test")[0].id
    assert _leaks(task, RESULTS, artifacts(task, tmp_path, {first: ["text"]}, 4)) == (
        "Rows too like 1 of the 4 test rows were offered for training and kept out. "
        "Without these test rows: shipped file 0.0 % exact, teacher 100.0 %."
    )


def test_rows_that_were_not_asked_do_not_count(task: Task, tmp_path: Path) -> None:
    """Dev rows are met too; they have no score in the table."""
    assert not _leaks(task, RESULTS, artifacts(task, tmp_path, {"another": ["words"]}, 4))


def test_where_all_were_met_there_is_no_score(task: Task, tmp_path: Path) -> None:
    met = {row.id: ["letters"] for row in task.examples("test")[:2]}
    told = _leaks(task, RESULTS, artifacts(task, tmp_path, met, 2))
    assert told == "Rows too like each of the 2 test rows were offered for training and kept out."


def test_a_file_that_gives_one_answer_to_all_is_told() -> None:
    assert _alike(["[]"] * 30) == ("The shipped file answers [] to all 30 test rows: it has to be trained for longer.",)
    assert f"answers {'x' * 80}… to all" in _alike(["x" * 81] * 2)[0]
    assert not _alike(["[]", "[]", "{}"]) and not _alike(["[]"])
