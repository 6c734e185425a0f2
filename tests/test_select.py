"""From what passed to the shard: the leakage gate, duplicates, and each row's way told."""

import json
from collections import Counter
from pathlib import Path

import pytest
from small import calling, opening, write_task

from workbench import registry
from workbench.config import Config, LeaksConfig, SelectConfig, TeacherConfig
from workbench.declaration import Task
from workbench.errors import DataError
from workbench.ledger import Ledger
from workbench.stages import examples, select
from workbench.stages.context import Context, read_json, read_jsonl, write_json, write_jsonl
from workbench.stages.gate import Leaks
from workbench.types import Candidate, Example, Judgement, Row, Verdict

NAMES = [f"{first}{second}" for first in ("Lun", "Mor", "Tiv", "Gax", "Wob") for second in
         ("adi", "eko", "ifu", "osk", "uly", "anz", "ery", "ipp")]  # fmt: skip


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return registry.load(str(write_task(tmp_path)))


def passed(task: Task, text: str, answer: list[dict[str, object]], outcome: str = "pass") -> Judgement:
    example = task.example({"text": text}, split="new", target=answer, source="inverse")
    candidate = Candidate(example=example, text=json.dumps(answer), call=f"call of {text}", source="inverse")
    verdict = Verdict.model_validate({"outcome": outcome, "checks": []})
    return Judgement(candidate=candidate, verdict=verdict, teacher="fake", licence="CC0-1.0")


def selected(
    task: Task, tmp_path: Path, candidates: list[Judgement], met: Leaks | None = None, **options: object
) -> tuple[list[Row], dict[str, object]]:
    leaks = LeaksConfig.model_validate(options.pop("leaks", {}))
    teacher = TeacherConfig(model=str(options.pop("teacher", "someone")))
    config = Config(
        teacher=teacher, leaks=leaks, select=SelectConfig.model_validate({"recombine": 0, "seed_repeats": 1, **options})
    )
    said: list[str] = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        folders = {name: tmp_path / name for name in ("examples", "sample", "select")}
        for folder in folders.values():
            folder.mkdir()
        write_json(folders["sample"] / "leaks.json", met or {})
        context = Context(task, config, folders, folders["examples"], ledger, tmp_path, said.append)
        examples.run(context)
        write_jsonl(folders["sample"] / "candidates.jsonl", candidates)
        context.out = folders["select"]
        select.run(context)
    return list(read_jsonl(context.out / "rows.jsonl", Row)), read_json(context.out / "funnel.json")


def test_what_is_like_a_dev_or_test_row_stays_out(task: Task, tmp_path: Path) -> None:
    rows, funnel = selected(task, tmp_path, [
        passed(task, "I need to speak to Marguerite", [calling("Marguerite")]),  # the dev row itself
        passed(task, "i need  to SPEAK to Marguerite", [calling("Marguerite")]),
        passed(task, "thirty minutes till the laundry!", []),  # a test row and a mark
        passed(task, "put me through to the plumber", [calling("plumber")]),
    ])  # fmt: skip
    assert [row.input["text"] for row in rows if row.source == "inverse"] == ["put me through to the plumber"]
    assert funnel["dropped"] == {"like a dev row (text)": 2, "like a test row (text)": 1}
    like = {row.id: ways for row, ways in _leaks(task, tmp_path)}
    assert like == {row.id: ["text"] for row in (*task.examples("dev"), *task.examples("test")) if row.id in like}
    assert len(like) == 2


def _leaks(task: Task, tmp_path: Path) -> list[tuple[Example, list[str]]]:
    found = read_json(tmp_path / "select" / "leaks.json")
    return [(row, found[row.id]) for split in ("dev", "test") for row in task.examples(split) if row.id in found]


def lengthened(task: Task, folder: Path) -> Task:
    """With a test row that is long enough to be quoted."""
    row = {"input": {"text": QUOTED}, "target": [calling("old man who mends the boiler")]}
    path = folder / "data" / "test.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    return task


QUOTED = "could you get hold of the old man who mends the boiler and ask him when he comes round next"


def test_a_passage_of_a_test_row_stays_out(task: Task, tmp_path: Path) -> None:
    candidates = [
        passed(lengthened(task, tmp_path), "well, he comes: get hold of the old man, who mends the Boiler or what", []),
        passed(task, "get hold of the old man for me", [calling("old man")]),  # six words in common
    ]
    rows, funnel = selected(task, tmp_path, candidates)
    assert funnel["dropped"] == {"like a test row (words)": 1}
    assert [row.input["text"] for row in rows if row.source == "inverse"] == ["get hold of the old man for me"]
    [(row, ways)] = _leaks(task, tmp_path)
    assert (row.input["text"], ways) == (QUOTED, ["words"])


def test_a_passage_may_go_in_where_the_task_says_so(task: Task, tmp_path: Path) -> None:
    text = "well, he comes: get hold of the old man, who mends the Boiler or what"
    rows, funnel = selected(lengthened(task, tmp_path), tmp_path, [passed(task, text, [])], leaks={"words": 0})
    assert (funnel["dropped"], [row.input["text"] for row in rows if row.source == "inverse"]) == ({}, [text])


def test_a_long_value_of_a_test_row_stays_out(task: Task, tmp_path: Path) -> None:
    answer = [calling("Old man who mends the boiler")]
    _, funnel = selected(lengthened(task, tmp_path), tmp_path, [
        passed(task, "old man who mends the boiler, dial him", answer),
        passed(task, "the man with the boiler, dial him", [calling("man with the boiler"), opening("boiler")]),
    ])  # fmt: skip
    assert funnel["dropped"] == {"like a test row (values)": 1}
    cases = funnel["dropped_cases"]
    assert isinstance(cases, dict)
    assert "shares 'old man who mends the boiler' with the test row" in cases["like a test row (values)"][0]["reason"]


def test_what_several_held_out_rows_have_in_common_is_anybodys(task: Task, tmp_path: Path) -> None:
    lengthened(task, tmp_path)
    row = {"input": {"text": f"{QUOTED} if ever"}, "target": [opening("round")]}
    path = tmp_path / "data" / "dev.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    text = "well, he comes: get hold of the old man, who mends the Boiler or what"
    rows, funnel = selected(task, tmp_path, [passed(task, text, [])])
    assert (funnel["dropped"], [row.input["text"] for row in rows if row.source == "inverse"]) == ({}, [text])


def test_what_was_kept_from_the_teacher_counts_too(task: Task, tmp_path: Path) -> None:
    first, second = (row.id for row in task.examples("test")[:2])
    text = task.examples("test")[0].input["text"]
    _, funnel = selected(task, tmp_path, [passed(task, f"{text}!!", [])], met={first: ["words"], second: ["letters"]})
    assert funnel["dropped"] == {"like a test row (text)": 1}
    assert read_json(tmp_path / "select" / "leaks.json") == {first: ["text", "words"], second: ["letters"]}


def test_a_seed_that_is_a_test_row_stays_out(task: Task, tmp_path: Path) -> None:
    seeds, text = tmp_path / "data" / "seeds.jsonl", task.examples("test")[0].input["text"]
    row = {"input": {"text": f"{text}!"}, "target": task.examples("test")[0].target}
    seeds.write_text(seeds.read_text() + json.dumps(row) + "\n")
    rows, funnel = selected(task, tmp_path, [], recombine=60)
    assert isinstance(funnel["dropped"], dict) and funnel["dropped"]["like a test row (text)"] == 1
    assert len({row.id for row in rows if row.source == "human"}) == 12
    assert not any(text.casefold() in row.input["text"].casefold() for row in rows), "nor is it a part of another"


def test_near_duplicates_go_in_once(task: Task, tmp_path: Path) -> None:
    rows, funnel = selected(task, tmp_path, [
        passed(task, "could you put me through to the plumber on the corner", [calling("plumber")]),
        passed(task, "could you put me through to the plumber on the corner", [calling("plumber")]),
        passed(task, "Could you put me through to the plumber on the corner", [calling("plumber")]),
        passed(task, "get the birdsong recorder going", [opening("birdsong recorder")]),
    ])  # fmt: skip
    kept = [row for row in rows if row.source == "inverse"]
    assert {row.input["text"] for row in kept} == {
        "could you put me through to the plumber on the corner", "get the birdsong recorder going"
    }  # fmt: skip
    assert funnel["dropped"] == {"near duplicate": 2}
    cases = funnel["dropped_cases"]
    assert isinstance(cases, dict) and len(cases["near duplicate"]) == 2
    assert all(case["reason"].startswith("too like a row that came before it: ") for case in cases["near duplicate"])
    assert funnel["from the teacher"] == 2


@pytest.mark.parametrize(
    ("weight", "least", "most"), [(0, 0, 0), (0.5, 8, 32), (1, 40, 40), (2, 80, 80), (2.5, 88, 112)]
)
def test_rows_come_as_often_as_their_teacher_counts(
    task: Task, tmp_path: Path, weight: float, least: int, most: int
) -> None:
    candidates = [passed(task, f"ring {name} {name[::-1]} now", [calling(name)]) for name in NAMES]
    own = passed(task, "ring the student back", [calling("student")])
    own = own.model_copy(update={"candidate": own.candidate.model_copy(update={"call": ""})})
    rows, funnel = selected(task, tmp_path, [*candidates, own], weights={"fake": weight}, teacher="fake")
    mine = Counter(row.id for row in rows if row.call)
    assert least <= mine.total() <= most
    assert set(mine.values()) <= {int(weight), int(weight + 0.5)}
    dropped: dict[str, int] = funnel["dropped"]  # type: ignore[assignment]
    assert funnel["from the teacher"] == 1 + len(mine) and dropped.get("weight", 0) == len(NAMES) - len(mine)
    assert [row.input["text"] for row in rows if row.teacher and not row.call] == ["ring the student back"]


def test_only_what_passed_goes_in_and_each_row_tells_its_way(task: Task, tmp_path: Path) -> None:
    rows, funnel = selected(task, tmp_path, [
        passed(task, "birdsong recorder", [opening("birdsong recorder")]),
        passed(task, "something else", [opening("else")], "fail"),
        passed(task, "a third thing", [opening("third thing")], "error"),
    ], seed_repeats=2)  # fmt: skip
    taught = [row for row in rows if row.source == "inverse"]
    assert [(row.prompt, row.completion) for row in taught] == [
        ("birdsong recorder", '[{"name":"open_app","arguments":{"app":"birdsong recorder"}}]')
    ]
    assert (taught[0].call, taught[0].teacher, taught[0].licence) == ("call of birdsong recorder", "fake", "CC0-1.0")
    assert (funnel["seeds"], funnel["rows"]) == (12, 12 * 2 + 1)
    assert all(row.verdict is not None and row.verdict.outcome == "pass" for row in rows)


def test_recombined_rows_are_judged_and_gated(task: Task, tmp_path: Path) -> None:
    rows, funnel = selected(task, tmp_path, [], recombine=80)
    mixed = [row for row in rows if row.source == "recombine"]
    held_out = {row.input["text"].lower() for split in ("dev", "test") for row in task.examples(split)}
    assert len(mixed) == funnel["recombined"] > 40
    assert not {row.input["text"].lower() for row in mixed} & held_out


def test_a_seed_that_its_own_validators_refuse_stays_out(task: Task, tmp_path: Path) -> None:
    seeds = tmp_path / "data" / "seeds.jsonl"
    row = {"input": {"text": "open something"}, "target": [opening("a thing not said")]}
    seeds.write_text(seeds.read_text() + json.dumps(row) + "\n")
    rows, funnel = selected(task, tmp_path, [])
    assert len(rows) == 12
    assert funnel["dropped"] == {"human: grounded": 1}


def answered(task: Task, text: str, answer: list[dict[str, object]]) -> Judgement:
    """By a teacher that tells no log-probabilities, as most APIs."""
    found = passed(task, text, answer)
    example = found.candidate.example.model_copy(update={"source": "corpus"})
    return found.model_copy(update={"candidate": found.candidate.model_copy(update={"example": example})})


def test_an_empty_answer_that_the_other_rows_do_not_bear_out_stays_out(task: Task, tmp_path: Path) -> None:
    who = ["Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea", "Max", "Ned", "Ola"]
    calls = [answered(task, f"ring {name} on the phone", [calling(name)]) for name in who]
    apps = [answered(task, f"launch the {name} app", [opening(f"{name} app")]) for name in who]
    jokes = [answered(task, f"what is the joke about {name}", []) for name in who]
    lost = answered(task, "ring Zoe on the phone", [])
    meant = passed(task, "ring Yan on the phone", [])  # the writer was told to make it so
    candidates = [*calls, *apps, *jokes, lost, meant]
    options: dict[str, float] = {"near_duplicate": 0.95}
    rows, funnel = selected(task, tmp_path, candidates, **options)
    assert funnel["dropped"] == {"empty, not borne out by the other rows": 1}
    cases = funnel["dropped_cases"]
    assert isinstance(cases, dict)
    [case] = cases["empty, not borne out by the other rows"]
    assert case["input"] == "ring Zoe on the phone" and ", call_contact 9" in case["reason"]
    assert {"ring Yan on the phone", "what is the joke about Ann"} <= {row.input["text"] for row in rows}
    (tmp_path / "all").mkdir()
    _, funnel = selected(task, tmp_path / "all", candidates, empty_margin=-1, **options)
    assert funnel["dropped"] == {}


def test_no_row_is_left(task: Task, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(DataError, match="no row is left to train on"):
        selected(replace(task, sources=("inverse",)), tmp_path, [])


def test_the_same_input_makes_the_same_shard(task: Task, tmp_path: Path) -> None:
    candidates = [passed(task, "birdsong recorder", [opening("birdsong recorder")])]
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        selected(task, tmp_path / name, candidates, recombine=30)
        made.append((tmp_path / name / "select" / "rows.jsonl").read_bytes())
    assert made[0] == made[1]
