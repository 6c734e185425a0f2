"""Where rows come from besides inverse wishes, and the second looks.

The author's own inputs are answered by the teacher and judged as all else; dev and test rows among them are never shown to it.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from servers import TeacherServer
from small import ROWS, TASK, here, opening, sampling, teacher_at, write_task

from workbench import registry
from workbench.config import Config
from workbench.errors import DataError, TeacherError
from workbench.judge import judge
from workbench.ledger import Ledger
from workbench.stages.shots import label_all
from workbench.teachers.asker import Asker
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Reply, Row

FRESH = ("open app app compass", "tell me about the moon")
HELD = tuple(ROWS[split][0][0] for split in ("dev", "test"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """talk.py with the source `corpus`; among its inputs one twice, a seed, and a dev and a test row in other letters."""
    file = write_task(tmp_path)
    file.write_text(TASK.replace('"recombine", "inverse"', '"corpus"'))
    inputs = [*FRESH, FRESH[0], ROWS["seeds"][0][0], *(text.upper() for text in HELD)]
    lines = [json.dumps({"input": {"text": text}}) for text in inputs]
    (tmp_path / "data" / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def shard(project: Path) -> list[Row]:
    lock: dict[str, Any] = json.loads(next(project.glob("runs/talk/*Z-*/lock.json")).read_text())
    key = next(entry["key"] for entry in lock["stages"] if entry["stage"] == "select")
    rows = project / ".workbench" / "store" / "select" / key[:2] / key / "rows.jsonl"
    return [Row.model_validate_json(line) for line in rows.read_text().splitlines()]


def test_the_corpus_is_answered_and_held_out_rows_are_not_shown(project: Path) -> None:
    with TeacherServer(project / "log.jsonl") as server:
        done = here(project, *sampling(server.base_url))
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [body["messages"][-1]["content"] for body in server.requests]
        shown = json.dumps(server.requests).casefold()
    assert sorted(asked) == sorted(FRESH), "each once; the round trip finds the answer in the ledger"
    assert not any(text.casefold() in shown for text in HELD)
    assert "what is too like 2 dev or test rows was kept from the teacher" in done.stdout
    rows = {row.input["text"]: row for row in shard(project) if row.source == "corpus"}
    assert set(rows) == set(FRESH)
    assert json.loads(rows[FRESH[0]].completion) == [opening("compass")]
    assert json.loads(rows[FRESH[1]].completion) == []
    assert all(row.call and "fake" in row.teacher for row in rows.values())


def test_sources_are_walked_in_turn(project: Path) -> None:
    """What the budget does not reach asks nothing, not even for the values that its wishes would need."""
    (project / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"corpus", "inverse"'))
    with TeacherServer(project / "log.jsonl") as server:
        done = here(project, *sampling(server.base_url, "sample.max_calls=1"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert [body["messages"][-1]["content"] in FRESH for body in server.requests] == [True]
        done = here(project, *sampling(server.base_url))
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [body["messages"][-1]["content"] for body in server.requests]
    assert sorted(asked[:2]) == sorted(FRESH) and "other ones." in asked[2]


def test_a_broken_corpus_is_told_with_its_row(project: Path) -> None:
    path = project / "data" / "corpus.jsonl"
    task = registry.load(str(project / "talk.py"))
    path.write_text('{"input": {"text": "hm"}}\n{"input": {"text": ""}}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl, row 2: input.text: String should have at least 1 character"):
        task.corpus()
    assert "corpus.jsonl,row2" in "".join(here(project, "check", "talk.py").stdout.split())
    path.unlink()
    with pytest.raises(DataError, match=r"corpus\.jsonl is missing"):
        task.corpus()
    assert here(project, "check", "talk.py").returncode != 0


def test_forward_inputs_are_answered_anew(project: Path) -> None:
    (project / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"forward"'))
    with TeacherServer(project / "log.jsonl") as server:
        done = here(project, *sampling(server.base_url, "sample.forward=12"))
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [body["messages"] for body in server.requests]
    written = [chat for chat in asked if "Here it goes backwards" in chat[0]["content"]]
    labelled = {chat[-1]["content"] for chat in asked if chat not in written}
    rows = [row for row in shard(project) if row.source == "forward"]
    assert len(written) == 12 and rows
    assert {row.input["text"] for row in rows} <= labelled, "each was asked as an input of its own"


def funnel(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(project.glob(".workbench/store/sample/*/*/funnel.json")).read_text())
    return found


def test_an_example_is_asked_again_until_one_passes(project: Path) -> None:
    inputs = [
        {"input": {"text": text}} for text in ("open app app compass", "open app app chess", "open app app notes")
    ]
    (project / "data" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs))
    with TeacherServer(project / "log.jsonl", script=["length", "length", "length", "ok"]) as server:
        done = here(project, *sampling(server.base_url, "sample.candidates=3", "runtime.concurrency=1"))
        assert done.returncode == 0, done.stdout + done.stderr
    assert (funnel(project)["candidates"], funnel(project)["passed"], funnel(project)["stopped"]) == (6, 3, "enough")
    assert server.count == 6, "three were cut off, and the easy ones cost a call each"


SHORT = """
def short(judged):
    return next((f"{v!r} is long" for c in judged.value for v in c["arguments"].values() if len(str(v)) > 10), None)


@task("""


def test_a_changed_validator_asks_nothing(tmp_path: Path) -> None:
    """A rule that refuses values, of those that the teacher was asked for too: all of it is judged anew from the ledger."""
    file = write_task(tmp_path)
    with TeacherServer(tmp_path / "log.jsonl") as server:
        before = here(tmp_path, *sampling(server.base_url))
        assert before.returncode == 0, before.stdout + before.stderr
        asked = server.count
        file.write_text(
            TASK.replace("schema\n", "schema, simple\n")
            .replace("@task(", SHORT.lstrip())
            .replace("equivalent(), ", 'simple("short", short), equivalent(), ')
        )
        after = here(tmp_path, *sampling(server.base_url))
        assert after.returncode == 0, after.stdout + after.stderr
        assert server.count == asked
    told = [re.search(r"sample: (\d+) of (\d+) candidates passed", done.stdout) for done in (before, after)]
    passed, judged = zip(*(map(int, found.groups()) for found in told if found), strict=True)
    assert passed[1] < passed[0] and judged[1] < judged[0], "values that do not stand are not asked for again"


def test_what_gets_no_answer_is_told(project: Path) -> None:
    inputs = [{"input": {"text": f"open app app number {n}"}} for n in range(90)]
    (project / "data" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs))
    with TeacherServer(project / "log.jsonl", text="Sure! I will.", script=["400", "ok"] * 90) as server:
        sets = ("sample.hopeless_after=20", "runtime.concurrency=1", "teacher.constrained=false")
        done = here(project, *sampling(server.base_url, *sets))
        assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(
        r"hopeless: 0 of (\d+) candidates passed, (\d+) requests got no answer", funnel(project)["stopped"]
    )
    assert found and int(found[1]) + int(found[2]) >= 20 and int(found[2]) == funnel(project)["given_up"] >= 8


def test_failures_count_in_their_turn(project: Path) -> None:
    """Thirty that fail at once, while thirty before them take their time and pass: no reason to give up."""
    inputs = [{"input": {"text": f"open app app number {n}"}} for n in range(60)]
    (project / "data" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs))
    with TeacherServer(project / "log.jsonl", script=["slow"] * 30 + ["400"] * 30) as server:
        sets = ("sample.hopeless_after=31", "runtime.concurrency=60", "teacher.constrained=false")
        done = here(project, *sampling(server.base_url, *sets))
        assert done.returncode == 0, done.stdout + done.stderr
    assert funnel(project)["stopped"] == "all wishes were tried, 30 found no passing candidate"
    assert (funnel(project)["passed"], funnel(project)["given_up"]) == (30, 30)


def test_wishes_that_come_to_nothing_are_told(project: Path) -> None:
    with TeacherServer(project / "log.jsonl", script=["length", "ok"]) as server:
        done = here(project, *sampling(server.base_url, "runtime.concurrency=1"))
        assert done.returncode == 0, done.stdout + done.stderr
    assert funnel(project)["stopped"] == "all wishes were tried, 1 found no passing candidate"


def test_a_hopeless_yield_ends_it(project: Path) -> None:
    inputs = [{"input": {"text": f"open app app number {n}"}} for n in range(90)]
    (project / "data" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in inputs))
    with TeacherServer(project / "log.jsonl", text="Sure! I will.") as server:
        done = here(project, *sampling(server.base_url, "sample.hopeless_after=20", "runtime.concurrency=2"))
        assert done.returncode == 0, done.stdout + done.stderr
    assert funnel(project)["stopped"] == "hopeless: 0 of 20 candidates passed"
    assert 20 <= server.count <= 24, "and what was under way"


@dataclass
class Looks:
    """The teacher's answers to one input, by `k`."""

    answers: list[str]

    async def label(self, example: Example, k: int) -> str:
        return self.answers[k]


RIGHT, WRONG, BROKEN = (json.dumps([opening("maps")]), json.dumps([opening("chess")]), "Sure!")


@pytest.mark.parametrize(
    ("validator", "answers", "outcome", "reason"),
    [
        ("vote(3, 2)", ["", RIGHT, BROKEN, RIGHT], "pass", ""),
        ("vote(3, 2)", ["", WRONG, BROKEN, RIGHT], "fail", "1 of 3 votes are for this answer"),
        ("round_trip()", [RIGHT], "pass", ""),
        ("round_trip()", [WRONG], "fail", f"asked again, the teacher says {WRONG}"),
        ("round_trip()", [BROKEN], "fail", "the second look is no answer"),
        ('round_trip(on="group")', [WRONG], "pass", ""),
        ('round_trip(on="group")', ["[]"], "fail", "asked again, the teacher says []"),
        ("round_trip(when=lambda calls: not calls)", [WRONG], "pass", ""),
    ],
)
def test_second_looks(project: Path, validator: str, answers: list[str], outcome: str, reason: str) -> None:
    made = TASK.replace("equivalent(), round_trip()", f"equivalent(), {validator}")
    (project / "talk.py").write_text(made.replace("parses, round_trip", "parses, round_trip, vote"))
    task = registry.load(str(project / "talk.py"))
    verdict = asyncio.run(judge(task, task.example({"text": "open maps or chess"}, split="new"), RIGHT, Looks(answers)))
    assert verdict.outcome == outcome
    assert reason in verdict.reason


@pytest.mark.parametrize(("deed", "mends"), [("400", False), ("500", True)])
def test_a_score_has_no_hole_that_may_yet_be_filled(deed: str, mends: bool, tmp_path: Path) -> None:
    """A row that is refused for good counts as wrong; one that a busy server left is asked for by the same command."""
    task = registry.load(str(write_task(tmp_path)))
    config = Config()
    rows = task.examples("test")

    async def labelled(url: str, ledger: Ledger, *, whole: bool) -> list[Reply | None]:
        teacher = teacher_at(url)
        asker = Asker(teacher, ledger, attempts=1, concurrency=1, constrained=False)
        try:
            labeler = Labeler(task, task.examples("seed"), "fixed", config.shots)
            return await label_all(asker, labeler, rows, config, whole=whole)
        finally:
            await teacher.aclose()

    with TeacherServer(tmp_path / "log.jsonl", script=[deed]) as server, Ledger(tmp_path / "l.sqlite") as ledger:
        if mends:
            with pytest.raises(TeacherError, match="500"):
                asyncio.run(labelled(server.base_url, ledger, whole=True))
        else:
            assert asyncio.run(labelled(server.base_url, ledger, whole=True)).count(None) == 1
    with TeacherServer(tmp_path / "log2.jsonl", script=[deed]) as server, Ledger(tmp_path / "l2.sqlite") as ledger:
        assert asyncio.run(labelled(server.base_url, ledger, whole=False)).count(None) == 1, "a look at dev bears one"
