"""Splits by group: rows that come from one source are in one file, and no student learns from what it is scored on."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from small import TASK, Told, calling, here, write_task

from workbench import registry, splitting
from workbench.config import Config
from workbench.errors import DataError, StoreError
from workbench.inspection import inspect
from workbench.ledger import Ledger
from workbench.stages import examples
from workbench.stages.context import Context
from workbench.stages.gate import HeldOut
from workbench.types import SPLITS

FILES = {"seed": "seeds.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path


def row(text: str, group: str = "") -> dict[str, Any]:
    return {"input": {"text": text}, "target": [], **({"group": group} if group else {})}


def split(folder: Path, rows: list[dict[str, Any]], name: str = "split") -> dict[str, str]:
    """Which file each input is in."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    counted, again = splitting.split(file, folder / name, dev=0.2, test=0.3)
    assert counted.total() + again == len(rows)
    placed: dict[str, str] = {}
    for each in SPLITS:
        lines = (folder / name / FILES[each]).read_text().splitlines()
        assert len(lines) == counted[each]
        placed |= {json.loads(line)["input"]["text"]: each for line in lines}
    return placed


def test_rows_of_a_group_are_never_torn_apart(tmp_path: Path) -> None:
    rows = [row(f"request {number}", f"customer {number % 60}") for number in range(600)]
    placed = split(tmp_path, rows)
    homes = defaultdict(set)
    for each in rows:
        homes[each["group"]].add(placed[each["input"]["text"]])
    assert len(placed) == 600 and all(len(found) == 1 for found in homes.values())


def test_shares_are_kept_and_rows_that_come_later_move_none(tmp_path: Path) -> None:
    rows = [row(f"request {number}") for number in range(2000)]
    before = split(tmp_path, rows, "before")
    after = split(tmp_path, [row(f"another {number}") for number in range(50)] + rows[::-1], "after")
    assert before.items() <= after.items()
    counts = [sum(home == each for home in before.values()) / 2000 for each in SPLITS]
    assert counts == pytest.approx([0.5, 0.2, 0.3], abs=0.04)
    again = split(tmp_path, [*rows, row("REQUEST  7"), row("request 8", "a customer")], "again")
    assert again == before, "an input stands once, letter case apart, whoever said it"


def test_what_cannot_be_split(tmp_path: Path, fails: Told) -> None:
    (tmp_path / "few.jsonl").write_text(json.dumps(row("one")) + "\n")
    with pytest.raises(DataError, match="1 rows give no "):
        splitting.split(tmp_path / "few.jsonl", tmp_path / "few", 0.2, 0.3)
    assert not (tmp_path / "few").exists()
    with pytest.raises(DataError, match="leave nothing"):
        splitting.split(tmp_path / "few.jsonl", tmp_path / "few", 0.5, 0.5)
    (tmp_path / "bare.jsonl").write_text('{"input": {"text": "hi"}}\n')
    assert fails("split", "bare.jsonl", "--to", "data")[0] == "bare.jsonl, row 1: 'target' is missing"
    assert fails("split", "gone.jsonl", "--to", "data")[0] == "there is no file gone.jsonl"
    rows = [row(f"request {number}") for number in range(60)]
    split(tmp_path, rows)
    with pytest.raises(StoreError, match="is there already"):
        split(tmp_path, rows)


def test_the_verb_tells_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(f"request {n}")) + "\n" for n in range(100)))
    done = here(tmp_path, "split", "rows.jsonl", "--to", "data")
    assert done.returncode == 0
    counts = [len((tmp_path / "data" / FILES[each]).read_text().splitlines()) for each in SPLITS]
    assert done.stdout == f"data: {counts[0]} seed, {counts[1]} dev, {counts[2]} test rows\n" and sum(counts) == 100
    file = write_task(tmp_path / "task")
    shutil.rmtree(file.parent / "data")
    shutil.copytree(tmp_path / "data", file.parent / "data")
    assert not [each for each in inspect(registry.load(str(file))).problems if each.validator == "data"], (
        "a task takes it"
    )


def grouped(folder: Path, **groups: str) -> Path:
    """The task of the tests, the first row of each named split of a group."""
    file = write_task(folder)
    for split_, group in groups.items():
        path = folder / "data" / FILES[split_]
        first, *others = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps({**json.loads(first), "group": group}), *others]) + "\n")
    return file


def test_a_group_in_two_splits_is_refused(tmp_path: Path, fails: Told) -> None:
    task = registry.load(str(grouped(tmp_path, seed="Ada", dev="Ada", test="Bob")))
    error, hint = fails("run", "talk.py", "--until", "examples")
    assert error.startswith("the group 'Ada' stands in seed and in dev: ") and "workbench split" in hint
    (problem,) = inspect(task).problems
    assert problem.where == "dev" and "of the group 'Ada', and so are seed rows" in problem.reason


def test_an_input_of_a_held_out_group_is_not_learned_from(tmp_path: Path) -> None:
    task = registry.load(str(grouped(tmp_path, seed="Ada", test="Bob")))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        context = Context(task, Config(), {"examples": tmp_path}, tmp_path, ledger, tmp_path, lambda said: None)
        examples.run(context)
        held = HeldOut(context)
    mine = task.example({"text": "quite another request"}, split="new")
    assert held.like(mine) is None and held.like(mine.model_copy(update={"group": "Ada"})) is None
    found = held.like(mine.model_copy(update={"group": "Bob"}))
    assert found is not None and (found.split, found.way) == ("test", "group")


def test_a_corpus_has_groups_too(tmp_path: Path) -> None:
    file = grouped(tmp_path, test="Bob")
    file.write_text(TASK.replace('sources=("seed"', 'sources=("corpus", "seed"'))
    lines = [{"input": {"text": "call me a cab"}, "group": "Bob"}, {"input": {"text": "open the door"}}]
    (tmp_path / "data" / "corpus.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert [each.group for each in registry.load(str(file)).corpus()] == ["Bob", ""]
    (tmp_path / "data" / "seeds.jsonl").write_text(
        json.dumps({**row("ring Ada"), "target": [calling("Ada")], "group": 7})
    )
    with pytest.raises(DataError, match="'group' is to be text"):
        registry.load(str(file)).rows("seed")
