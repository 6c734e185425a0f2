"""Several teachers: who is asked for what, who stands in, what a vote decides, and that one account holds for all."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from servers import TeacherServer
from small import TASK, here, opening, sampling, timer, write_task
from test_sampling import FRESH, shard

from workbench import plan, registry, rejudge
from workbench.config import Config, load_config
from workbench.errors import ConfigError
from workbench.stages.context import read_json
from workbench.stages.pool import Ballot, agreements, elected
from workbench.teachers.asker import Answer
from workbench.types import Reply

GOOD = ""  # a server that answers as it can


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


def of_corpus(project: Path) -> None:
    (project / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"corpus"'))
    lines = [json.dumps({"input": {"text": text}}) for text in FRESH]
    (project / "data" / "corpus.jsonl").write_text("\n".join(lines) + "\n")


class Servers:
    """A server for each text, the first one the teacher's, the others the pool's."""

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        self.folder, self._stack = folder, ExitStack()
        self.all = [TeacherServer(folder / f"log{place}", text=text) for place, text in enumerate(texts)]

    def __enter__(self) -> "Servers":
        for server in self.all:
            self._stack.enter_context(server)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, roles: Sequence[dict[str, Any]], *sets: str, **runtime: Any) -> str:
        """Up to the shard; gives what was told."""
        pool = [
            {"model": f"fake{place}", "base_url": server.base_url, **role}
            for place, (server, role) in enumerate(zip(self.all[1:], roles, strict=True), start=1)
        ]
        (self.folder / "pool.toml").write_text(tomli_w.dumps({"pool": {"teachers": pool}, "runtime": runtime}))
        done = here(self.folder, *sampling(self.all[0].base_url, *sets), "--config", "pool.toml")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def counts(self) -> list[int]:
        return [server.count for server in self.all]


def test_a_function_has_its_own_teacher(project: Path) -> None:
    task = registry.load(str(project / "talk.py"))
    with Servers(project, [GOOD, GOOD]) as servers:
        servers.run([{"groups": ["call_contact"]}])
        assert min(servers.counts) > 0
    rows = [row for row in shard(project) if row.source == "inverse"]
    by = {row.teacher.partition("@")[0]: set[str]() for row in rows}
    for row in rows:
        by[row.teacher.partition("@")[0]].add(task.output.group(task.output.parse(row.completion)))
    assert by["fake1"] == {"call_contact"}
    assert by["fake"] and "call_contact" not in by["fake"]


def test_a_source_has_its_own_teacher(project: Path) -> None:
    of_corpus(project)
    with Servers(project, [GOOD, GOOD]) as servers:
        servers.run([{"sources": ["corpus"]}])
        assert servers.counts == [0, len(FRESH)]
    assert {row.teacher.partition("@")[0] for row in shard(project) if row.source == "corpus"} == {"fake1"}


def test_a_dead_teacher_is_told_and_another_stands_in(project: Path) -> None:
    with Servers(project, [GOOD, GOOD]) as servers:
        servers.all[0].script = ["401"] * 1000
        told = servers.run([{"fallback": True}])
        assert servers.all[1].count > 0
    assert told.count("is dead, others are asked in its place") == 1
    rows = [row for row in shard(project) if row.source == "inverse"]
    assert rows and {row.teacher.partition("@")[0] for row in rows} == {"fake1"}


def test_nobody_stands_in_unasked(project: Path) -> None:
    with Servers(project, [GOOD, GOOD]) as servers:
        servers.all[0].script = ["401"] * 1000
        with pytest.raises(AssertionError, match="refused the API key"):
            servers.run([{"groups": ["call_contact"]}])


@pytest.mark.parametrize(
    ("texts", "chosen", "whose"),
    [
        ((GOOD, GOOD, "[]"), [opening("compass")], "fake"),
        (("[]", GOOD, GOOD), [opening("compass")], "fake1"),  # who answered first is outvoted
        ((GOOD, "[]", "hm"), None, ""),
    ],
)
def test_what_more_than_half_answer_is_taken(texts: tuple[str, ...], chosen: Any, whose: str, project: Path) -> None:
    of_corpus(project)
    with Servers(project, texts) as servers:
        told = servers.run([{"votes": True}, {"votes": True}])
        assert servers.counts == [len(FRESH)] * 3, "each input once, of each"
    rows = {row.input["text"]: row for row in shard(project) if row.source == "corpus"}
    if chosen is None:
        assert FRESH[0] not in rows
    else:
        assert json.loads(rows[FRESH[0]].completion) == chosen
        assert rows[FRESH[0]].teacher.partition("@")[0] == whose
        assert "2 of 3 teachers agree" in {check.reason for check in rows[FRESH[0]].verdict.checks}  # type: ignore[union-attr]
    assert "fake1@" in told and f"agree on {1 if 'hm' not in texts else 0} of {len(FRESH)} inputs" in told


def test_an_input_is_taken_where_the_others_read_it_as_it_was_meant(project: Path) -> None:
    with Servers(project, [GOOD, "[]"]) as servers:
        servers.run([{"votes": True}], "sample.inverse=20")
        assert servers.all[1].count > 0
    lock = json.loads(next(project.glob("runs/talk/*Z-*/lock.json")).read_text())
    sampled = next(Path(entry["path"]) for entry in lock["stages"] if entry["stage"] == "sample")
    refused = [
        line
        for line in (sampled / "candidates.jsonl").read_text().splitlines()
        if '"teachers","outcome":"fail"' in line
    ]
    assert refused, "one teacher of two is not more than half"
    ((same, both),) = read_json(sampled / "funnel.json")["agreement"].values()
    assert len(refused) == both - same
    task = registry.load(str(project / "talk.py"))
    assert not rejudge.rejudge(task, sampled / "candidates.jsonl", jobs=1).changed, (
        "the vote is not asked again, and counts"
    )
    assert not [row for row in shard(project) if row.source == "inverse" and row.completion != "[]"]


def test_one_account_holds_for_all(project: Path) -> None:
    of_corpus(project)
    with Servers(project, [GOOD, GOOD]) as servers:
        told = servers.run([{"votes": True}], "sample.max_calls=3")
        assert sum(servers.counts) == 3
    assert "stopped: the budget of 3 calls is spent" in told


def test_each_teacher_has_limits_of_its_own(project: Path) -> None:
    of_corpus(project)
    with Servers(project, [GOOD, GOOD]) as servers:
        for server in servers.all:
            server.latency_s = 0.1
        servers.run([{"votes": True}], per_teacher={"fake1": {"concurrency": 1}})
        assert servers.all[0].busiest > 1 and servers.all[1].busiest == 1
        assert servers.all[1].count > 1
        with pytest.raises(AssertionError, match="no teacher is called fake7"):
            servers.run([{"votes": True}], per_teacher={"fake7": {"concurrency": 1}})


def test_a_group_that_is_none_is_told_before_anybody_is_asked(project: Path) -> None:
    with Servers(project, [GOOD, GOOD]) as servers:
        with pytest.raises(AssertionError, match="no seed's answer is of the group 'call_kontact'"):
            servers.run([{"groups": ["call_kontact"]}])
        assert servers.counts == [0, 0]


def test_a_pool_of_nobody_changes_no_key(project: Path) -> None:
    task = registry.load(str(project / "talk.py"))
    sample = next(stage for stage in plan.STAGES if stage.name == "sample")
    pooled = Config.model_validate({"pool": {"teachers": [{"model": "other", "votes": True}]}})
    alone, more = (plan.made_of(sample, "code", config, {})["config"] for config in (Config(), pooled))
    assert set(more) - set(alone) == {"pool"} and task.name == "talk"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (['pool.teachers=[{model="a"}]'], "wants a role"),
        (['pool.teachers=[{model="a", votes=true}, {model="a", fallback=true}]'], "stands in the pool twice"),
        (["teacher.model=a", 'pool.teachers=[{model="a", votes=true}]'], "the teacher itself is one of them"),
        (['pool.teachers=[{model="a", votes=true, batch=5}]'], "not in batches"),
        (['pool.teachers=[{model="a", votes=true, base_url="ftp://x"}]'], "an address is wanted"),
    ],
)
def test_a_pool_that_cannot_be_is_told(sets: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(sets=tuple(sets))


def test_votes_are_counted_by_what_the_task_takes_for_the_same(project: Path) -> None:
    output = registry.load(str(project / "talk.py")).output

    def said(teacher: str, value: Any) -> Ballot:
        return Ballot(Answer("", Reply(text=""), f"{teacher} sha", ""), value)

    a, b, c = (
        said("a", [timer(5)]),
        said("b", output.parse('[{"name": "set_timer", "arguments": {"label": null, "minutes": 5}}]')),
        said("c", None),
    )
    assert elected(output, [a, b, c], 3) == (a, 2)
    assert elected(output, [c, b], 2) == (None, 1), "half is not more than half, and no answer is none"
    assert elected(output, [c], 1) == (None, 0)
    assert elected(output, [a], 2) == (None, 1), "who gives no answer agrees with nobody"
    assert list(agreements(output, [b, a, c])) == [("a", "b", True), ("a", "c", False), ("b", "c", False)]
