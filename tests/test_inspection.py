"""What `workbench check` sees of a task before anything is judged, and what it says without calling it a problem."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from small import ROWS, here, opening, write_rows, write_task
from workbench.validators import grounded, percent

from workbench import Calls, Prompt, Task, registry
from workbench.inspection import Problem, inspect


class Asked(BaseModel):
    text: str
    room: str | None = None


class Mute(BaseModel):
    room: str


def talk(folder: Path, **rows: list[tuple[str, list[dict[str, Any]]]]) -> Task:
    task = registry.load(str(write_task(folder)))
    for name, written in rows.items():
        write_rows(folder / "data" / f"{name}.jsonl", written)
    return task


def only(task: Task) -> Problem:
    (problem,) = inspect(task).problems
    assert (problem.validator, problem.outcome) == ("data", "fail")
    return problem


FEW = "few rows: 12 seed, 6 dev, 6 test; 50 of each are a start"


def test_all_is_well(tmp_path: Path) -> None:
    seen = inspect(talk(tmp_path))
    assert (seen.problems, seen.notes) == ([], [FEW])
    assert {split: len(rows) for split, rows in seen.rows.items()} == {"seed": 12, "dev": 6, "test": 6}
    seeds = [(f"{text} {n}", target) for n in range(5) for text, target in ROWS["seeds"]]
    assert inspect(talk(tmp_path, seeds=seeds)).notes == ["few rows: 6 dev, 6 test; 50 of each are a start"]


def test_notes_are_printed_and_are_no_problem(tmp_path: Path) -> None:
    write_task(tmp_path)
    done = here(tmp_path, "check", "talk.py")
    assert done.returncode == 0
    assert "talk: 12 seed, 6 dev, 6 test rows, 2 probes: all well\n" in done.stdout
    assert f"  note: {FEW}\n" in done.stdout


def test_two_rows_that_contradict_each_other(tmp_path: Path) -> None:
    text, target = ROWS["dev"][0]
    problem = only(talk(tmp_path, dev=[*ROWS["dev"], (text, [opening("chess")])]))
    assert (problem.where, problem.input) == ("dev", text)
    assert "stands in dev.jsonl with two targets: " in problem.reason
    assert '"weather"' in problem.reason and '"chess"' in problem.reason
    same = inspect(talk(tmp_path, dev=[*ROWS["dev"], (text, target), (text, [opening("WEATHER")])]))
    assert same.problems == []
    assert f"dev.jsonl: rows that stand there already, and do not count: 2, first {text!r}" in same.notes
    assert len(same.rows["dev"]) == len(ROWS["dev"])


def test_a_students_prompt_that_cannot_be_filled_in(tmp_path: Path) -> None:
    task = talk(tmp_path)
    broken = inspect(replace(task, prompt=replace(task.prompt, student="{text:d}")))
    assert [(problem.where, problem.input) for problem in broken.problems] == [
        (where, ROWS[name][0][0]) for where, name in (("seed", "seeds"), ("dev", "dev"), ("test", "test"))
    ]
    assert broken.problems[1].reason == (
        "student='{text:d}' cannot be filled in: Unknown format code 'd' for object of type 'str'; nor can it for 5 more"
    )


def test_a_field_that_is_null_in_the_students_prompt(tmp_path: Path) -> None:
    task = talk(tmp_path)
    both = replace(task, prompt=replace(task.prompt, input=Asked, student="{room}: {text}"))
    dev, text = tmp_path / "data" / "dev.jsonl", "hush"
    dev.write_text(json.dumps({"input": {"text": text, "room": "hall"}, "target": []}))
    told = inspect(both).notes
    assert f"seed: the student reads None where room is null: 12 rows, first {ROWS['seeds'][0][0]!r}" in told
    assert not any(note.startswith("dev:") for note in told)
    strict = inspect(replace(both, prompt=replace(both.prompt, student="{text} {room:>9}")))
    assert [problem.where for problem in strict.problems] == ["seed", "test"]


def test_a_corpus_is_looked_at_where_it_is_a_source_and_spoken_of_where_not(tmp_path: Path) -> None:
    task = talk(tmp_path)
    (tmp_path / "data" / "corpus.jsonl").write_text('{"input": {"text": "open it"}}\n')
    unread = inspect(task)
    assert unread.problems == [] and len(unread.corpus) == 0
    assert 'corpus.jsonl is there and is not read: "corpus" is none of the sources' in unread.notes
    read = inspect(replace(task, sources=("corpus",)))
    assert len(read.corpus) == 1 and read.notes == [FEW]
    (tmp_path / "data" / "corpus.jsonl").write_text('{"input": "open it"}\n')
    assert only(replace(task, sources=("corpus",))).where == "corpus"


def test_a_rule_for_what_no_answer_has(tmp_path: Path) -> None:
    task = talk(tmp_path)
    problem = only(replace(task, validators=[*task.validators, grounded({"set_timer.minuts": percent})]))
    assert problem.where == "grounded"
    assert problem.reason == "no argument set_timer.minuts; did you mean set_timer.minutes"


def test_a_function_that_says_nothing_of_itself(tmp_path: Path) -> None:
    task = talk(tmp_path, **{name: [(rows[-1][0], [])] for name, rows in ROWS.items()})
    dumb = replace(task, prompt=Prompt(Asked, Calls([Mute]), "Do as you are told."))
    assert "no docstring, which tells the teacher what a function is for: mute" in inspect(dumb).notes


@pytest.mark.parametrize("content", ["{\n{\n", "{\n"])
def test_bad_rows_are_told_with_their_hint(tmp_path: Path, content: str) -> None:
    task = talk(tmp_path)
    (tmp_path / "data" / "dev.jsonl").write_text(content)
    reason = only(task).reason
    assert "row 1: not JSON" in reason
    assert reason.endswith(("; " if content == "{\n" else "\n  ") + "each line is one JSON object")
