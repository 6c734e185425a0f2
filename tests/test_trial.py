"""Validators on trial: shipped tasks pass, and every fault that a trial is there to find is found in its place."""

import io
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from rich.console import Console
from workbench.validators import equivalent, grounded, parses, round_trip, schema, simple

from workbench import Calls, Data, Judged, Probe, Prompt, Record, Task, accept, registry, reject
from workbench.checked import gate
from workbench.declaration import DearValidator, Validator
from workbench.errors import TaskError
from workbench.judge import judge_cheap
from workbench.mutants import KINDS, mutants
from workbench.outputs import ParseError
from workbench.trial import Trial, print_trial, try_task


class Utterance(BaseModel):
    text: str


class PlaySong(BaseModel):
    title: str
    artist: str | None = None


class Mute(BaseModel):
    room: Literal["kitchen", "hall", "attic"]
    on: bool = True


class Order(BaseModel):
    drink: str
    sugar: int
    size: Literal["small", "large"]
    name: str | None
    note: str = ""


ABBA = {"name": "play_song", "arguments": {"title": "Waterloo", "artist": "Abba"}}
HUSH = {"name": "mute", "arguments": {"room": "hall"}}
ROWS: dict[str, list[tuple[str, Any]]] = {
    "seeds.jsonl": [("play Waterloo by Abba", [ABBA]), ("mute the hall", [HUSH]), ("hello there", [])],
    "dev.jsonl": [("Waterloo by Abba, but not in the hall", [ABBA, HUSH])],
    "test.jsonl": [("hush in the hall please", [HUSH])],
}
GOOD = (parses(), schema(), grounded(), equivalent())


def made(
    root: Path,
    validators: Sequence[Validator | DearValidator] = GOOD,
    probes: Sequence[Probe] = (),
    rows: dict[str, list[tuple[str, Any]]] | None = None,
) -> Task:
    for name, split in {**ROWS, **(rows or {})}.items():
        lines = [json.dumps({"input": {"text": text}, "target": target}) for text, target in split]
        (root / name).write_text("\n".join(lines))
    prompt = Prompt(Utterance, Calls([PlaySong, Mute]), "Do as you are told.")
    return Task(prompt=prompt, data=Data.folder(root), validators=validators, probes=probes, name="songs")


def printed(trial: Trial) -> str:
    out = io.StringIO()
    print_trial(trial, Console(file=out, width=200))
    return out.getvalue()


def crash(judged: Judged) -> str | None:
    raise ZeroDivisionError("a fault of its own")


def crash_on_mutants(judged: Judged) -> str | None:
    if judged.value and judged.value[0]["arguments"].get("title", "Waterloo") != "Waterloo":
        raise ZeroDivisionError("a fault of its own")
    return None


@pytest.mark.parametrize(
    ("name", "own", "dear"),
    [
        ("phone_actions", ("cued", "asked", "apart"), ("vote",)),
        ("support_triage", ("cued", "asked", "whole_product", "order_number"), ()),
    ],
)
def test_shipped_tasks_pass(name: str, own: tuple[str, ...], dear: tuple[str, ...]) -> None:
    trial = try_task(registry.load(name))
    assert trial.ok, printed(trial)
    assert trial.validators == ("parses", "schema", "grounded", *own, "equivalent")
    assert trial.dear == dear
    assert trial.needs_target == ("equivalent",)
    lines = {line.kind: line for line in trial.lines}
    for kind in ("prose around it", "cut off", "wrong type", "text from elsewhere"):
        assert lines[kind].together.total > 0
        assert lines[kind].together.passed == 0, kind
    assert all(line.alone[-1].passed == 0 for line in trial.lines)
    assert lines["text from the input"].together.passed > 0  # nothing here sees it without the target


def test_a_trial_is_the_same_each_time(tmp_path: Path) -> None:
    assert try_task(made(tmp_path)) == try_task(made(tmp_path))


def test_a_target_that_a_validator_refuses(tmp_path: Path) -> None:
    wrong = {"name": "play_song", "arguments": {"title": "Fernando"}}
    trial = try_task(made(tmp_path, rows={"test.jsonl": [("mute the attic", [wrong])]}))
    assert not trial.ok
    (problem,) = trial.problems
    assert (problem.where, problem.validator, problem.outcome) == ("test", "grounded", "fail")
    assert problem.input == "mute the attic"
    assert "Fernando" in problem.reason
    assert "1 problem" in printed(trial)


def test_a_refused_target_is_not_mutated(tmp_path: Path) -> None:
    trial = try_task(made(tmp_path, [parses(), simple("no", lambda judged: "no")]))
    assert {problem.validator for problem in trial.problems} == {"no"}
    assert len(trial.problems) == 5
    assert trial.lines == ()


def test_rows_that_do_not_parse_stand_twice_or_are_missing(tmp_path: Path) -> None:
    unknown = [{"name": "dance", "arguments": {}}]
    trial = try_task(made(tmp_path, rows={"dev.jsonl": [("dance", unknown)], "test.jsonl": [("hello there", [])]}))
    assert [(problem.where, problem.validator) for problem in trial.problems] == [("dev", "data"), ("test", "data")]
    assert "dev.jsonl, row 1" in trial.problems[0].reason
    assert "is a seed row too" in trial.problems[1].reason
    assert trial.rows == {"seed": 3, "dev": 0, "test": 1}
    (tmp_path / "seeds.jsonl").unlink()
    assert "seeds.jsonl is missing" in printed(try_task(Task(**{**vars(made(tmp_path)), "data": Data(tmp_path / "x")})))


PLAY = '[{"name":"play_song","arguments":{"title":"Waterloo"}}]'


@pytest.mark.parametrize(
    ("probe", "validator", "outcome"),
    [
        (accept({"text": "play Fernando"}, PLAY), "grounded", "fail"),
        (reject({"text": "play Waterloo"}, PLAY, by="grounded"), "grounded", "pass"),
        (reject({"text": "play Fernando"}, f"Sure! {PLAY}", by="grounded"), "parses", "fail"),
        (reject({"text": "play Fernando"}, PLAY, by="politeness"), "politeness", "fail"),
        (accept({"words": "play Waterloo"}, PLAY), "data", "fail"),
    ],
)
def test_a_probe_that_misbehaves(tmp_path: Path, probe: Probe, validator: str, outcome: str) -> None:
    trial = try_task(made(tmp_path, probes=[accept({"text": "play Waterloo"}, PLAY), probe]))
    (problem,) = trial.problems
    assert (problem.where, problem.validator, problem.outcome) == ("probe 2", validator, outcome)
    assert not trial.ok


def test_probes_that_behave(tmp_path: Path) -> None:
    probes = [accept({"text": "play Waterloo"}, PLAY), reject({"text": "play Fernando"}, PLAY, by="grounded")]
    assert try_task(made(tmp_path, probes=probes)).ok


def test_a_crash_is_an_error_and_not_a_refusal(tmp_path: Path) -> None:
    probe = reject({"text": "play Fernando"}, PLAY, by="crash")
    trial = try_task(made(tmp_path, [parses(), simple("crash", crash)], [probe]))
    assert {(problem.validator, problem.outcome) for problem in trial.problems} == {("crash", "error")}
    assert [problem.where for problem in trial.problems] == ["seed"] * 3 + ["dev", "test", "probe 1"]
    assert "crash crashed: ZeroDivisionError: a fault of its own" in printed(trial)


def test_a_crash_on_mutants_only_is_told_once_and_counted_in_no_cell(tmp_path: Path) -> None:
    trial = try_task(made(tmp_path, [parses(), schema(), simple("crash", crash_on_mutants)]))
    (problem,) = trial.problems
    assert (problem.where, problem.validator, problem.outcome) == ("mutant", "crash", "error")
    line = next(line for line in trial.lines if line.kind == "two texts swapped")
    assert line.alone[0].total == 2
    assert (line.alone[2].total, line.together.total) == (0, 0)


def test_a_validator_before_the_parser_is_told_to_stand_behind_it(tmp_path: Path) -> None:
    (problem,) = try_task(made(tmp_path, [grounded()])).problems
    assert problem.outcome == "error"
    assert "put parses() and schema() before it" in problem.reason


@pytest.mark.parametrize("validators", [[], [simple("yes", lambda judged: None), round_trip()]])
def test_who_accepts_all_lets_all_mutants_through(tmp_path: Path, validators: list[Validator | DearValidator]) -> None:
    trial = try_task(made(tmp_path, validators))
    assert trial.ok
    assert {line.kind for line in trial.lines} > {"prose around it", "call added", "calls reordered"}
    for line in trial.lines:
        assert all(cell.passed == cell.total > 0 for cell in (*line.alone, line.together))


def test_the_target_protects_only_where_it_is_known(tmp_path: Path) -> None:
    trial = try_task(made(tmp_path, [parses(), schema(), equivalent()]))
    line = next(line for line in trial.lines if line.kind == "call dropped")
    assert line.alone[2].passed == 0
    assert line.together.passed == line.together.total == 4
    assert trial.needs_target == ("equivalent",)


def test_mutants_differ_from_their_target_and_from_each_other() -> None:
    seen = set()
    for name in ("phone_actions", "support_triage"):
        task = registry.load(name)
        rows = [*task.examples("seed"), *task.examples("dev")]
        for row in rows:
            found = list(mutants(task.output, row, random.Random(1), [other.target for other in rows]))
            assert found == list(mutants(task.output, row, random.Random(1), [other.target for other in rows]))
            assert len({mutant.text for mutant in found}) == len(found)
            for mutant in found:
                seen.add(mutant.kind)
                assert judge_cheap(task, row, mutant.text, [equivalent()]).outcome == "fail", mutant
                try:
                    value = task.output.parse(mutant.text)
                except ParseError:
                    continue
                assert not task.output.same(value, row.target), mutant
    assert seen == set(KINDS)


def test_what_is_the_same_to_the_output_is_no_mutant() -> None:
    record = Record(Order, ignore=("note",))
    target = {"drink": "tea", "sugar": 2, "size": "small", "name": None, "note": "hot"}
    prompt = Prompt(Utterance, record, "Do it.")
    task = Task(prompt=prompt, data=Data(Path()), validators=[])
    row = task.example({"text": "a small tea with two sugar"}, split="seed", target=target)
    found = list(mutants(record, row, random.Random(0)))
    assert {mutant.kind for mutant in found} == set(KINDS[:9])
    assert '"size":"large"' in next(mutant.text for mutant in found if mutant.kind == "wrong choice")
    calls = Calls([PlaySong, Mute], ordered=False)
    task = Task(prompt=Prompt(Utterance, calls, "Do it."), data=Data(Path()), validators=[])
    row = task.example({"text": "Waterloo by Abba, hall"}, split="seed", target=[ABBA, HUSH])
    assert "calls reordered" not in {mutant.kind for mutant in mutants(calls, row, random.Random(0))}


def test_an_empty_answer_has_mutants_too(tmp_path: Path) -> None:
    task = made(tmp_path)
    row = task.example({"text": "hello there"}, split="seed", target=[])
    kinds = {mutant.kind for mutant in mutants(task.output, row, random.Random(0), [[ABBA]])}
    assert kinds == {"prose around it", "cut off", "call added"}


def test_print_takes_no_markup_from_data(tmp_path: Path) -> None:
    rows = {"test.jsonl": [("[bold]mute[/] it [/nothing]", [ABBA])]}
    assert "[bold]mute[/] it [/nothing]" in printed(try_task(made(tmp_path, rows=rows)))


CHECKED: list[tuple[str, list[Any], bool]] = [
    ("put on Waterloo", [{"name": "play_song", "arguments": {"title": "Waterloo"}}], True),
    ("hush the attic, would you", [{"name": "mute", "arguments": {"room": "attic"}}], True),
    ("put on Waterloo", [{"name": "play_song", "arguments": {"title": "Fernando"}}], False),  # not said
    ("no Abba in the hall", [ABBA], False),  # not said
    ("no Waterloo in the hall", [{"name": "play_song", "arguments": {"title": "Waterloo"}}], False),  # let by
]


def checked(root: Path, lets_by: float, rows: list[tuple[str, list[Any], bool]] = CHECKED) -> Task:
    lines = [json.dumps({"input": {"text": t}, "text": json.dumps(a), "right": r}) for t, a, r in rows]
    task = made(root)
    (root / "checked.jsonl").write_text("\n".join(lines))
    return replace(task, lets_by=lets_by)


def test_answers_checked_by_a_person(tmp_path: Path) -> None:
    trial = try_task(checked(tmp_path, 40))
    assert trial.ok
    assert trial.standing is not None
    assert (trial.standing.wrong, trial.standing.let_by) == (3, 1)
    assert (trial.standing.right, trial.standing.refused) == (2, 0)
    assert "1 of 3 wrong answers let by (33 %, 95 % interval 6 to 79), 0 of 2 right ones refused" in printed(trial)
    gate(checked(tmp_path, 40))


def test_validators_that_let_by_more_than_they_declare(tmp_path: Path) -> None:
    task = checked(tmp_path, 30)
    with pytest.raises(TaskError, match=r"let by 1 of 3 wrong answers .* \(33 %\), the task allows 30 %"):
        gate(task)
    [problem] = try_task(task).problems
    assert (problem.where, problem.outcome) == ("checked", "fail")
    assert "the task allows 30 %" in problem.reason


def test_a_rate_that_was_not_measured_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="nothing was measured"):
        gate(checked(tmp_path, 30, CHECKED[:2]))
    (tmp_path / "checked.jsonl").unlink()
    with pytest.raises(TaskError, match="nothing was measured"):
        gate(replace(made(tmp_path), lets_by=30))
    gate(made(tmp_path))


def test_a_validator_that_crashes_is_no_good_one(tmp_path: Path) -> None:
    task = replace(checked(tmp_path, 40), validators=[parses(), simple("crash", crash)])
    with pytest.raises(TaskError, match="crashed on 5 of the checked answers"):
        gate(task)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"input": {"text": "x"}, "right": True}, "'text' is missing"),
        ({"input": {"text": "x"}, "text": [], "right": True}, "`text` is to be text"),
        ({"input": {"text": "x"}, "text": "[]", "right": "false"}, "`right` true or false"),
        ({"input": {"words": "x"}, "text": "[]", "right": False}, "text: Field required"),
    ],
)
def test_a_checked_row_that_is_none(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    task = checked(tmp_path, 100)
    with (tmp_path / "checked.jsonl").open("a") as handle:
        handle.write("\n" + json.dumps(row))
    [problem] = try_task(task).problems
    assert problem.where == "checked" and "row 6: " in problem.reason and why in problem.reason
