"""The Batch API as a way to ask: the same shard, half the price, what fails asked again, nothing sent twice after a kill."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from batch_server import BatchServer
from servers import TeacherServer
from small import KEY, command, environment, here, question, sampling, write_task

from workbench.config import Runtime, TeacherConfig, load_config
from workbench.errors import ConfigError, StoreError, TeacherError
from workbench.ledger import Ledger
from workbench.teachers.batched import BatchTeacher
from workbench.teachers.build import build_teacher
from workbench.types import Reply

BATCH = ("teacher.batch=100", "runtime.batch_poll_s=0.05", "sample.max_minutes=1440")


def made(url: str, ledger: Ledger, size: int = 100) -> BatchTeacher:
    teacher = build_teacher(TeacherConfig(model="fake", base_url=url, batch=size), Runtime(batch_poll_s=0.02), ledger)
    assert isinstance(teacher, BatchTeacher)
    return teacher


def asked(url: str, ledger: Ledger, texts: Sequence[str], size: int = 100) -> list[Reply | BaseException]:
    async def inside() -> list[Reply | BaseException]:
        teacher = made(url, ledger, size)
        try:
            async with asyncio.timeout(30):
                await teacher.prepare()
                waiting = (teacher.complete(question(text)) for text in texts)
                return list(await asyncio.gather(*waiting, return_exceptions=True))
        finally:
            await teacher.aclose()

    return asyncio.run(inside())


def shard(project: Path) -> str:
    lock = json.loads(next(project.glob("runs/talk/*Z-*/lock.json")).read_text())
    key = next(entry["key"] for entry in lock["stages"] if entry["stage"] == "select")
    return (project / ".workbench" / "store" / "select" / key[:2] / key / "rows.jsonl").read_text()


def test_a_run_in_batches_makes_the_shard_of_a_run_without(tmp_path: Path) -> None:
    shards = []
    for name, kind, sets in (("one", TeacherServer, ()), ("many", BatchServer, BATCH)):
        project = tmp_path / name
        write_task(project)
        with kind(project / "log.jsonl") as server:
            done = here(project, *sampling(server.base_url, *sets))
            assert done.returncode == 0, done.stdout + done.stderr
            rows = [json.loads(line) for line in shard(project).splitlines()]
            shards.append([(row["prompt"], row["completion"]) for row in rows])
            if isinstance(server, BatchServer):
                assert server.direct == 0 and 1 < len(server.batches) < server.count / 3
                assert not list((project / ".workbench" / "batches").rglob("*.jsonl")), "what is answered is forgotten"
    assert shards[0] == shards[1] and shards[0]


def test_what_fails_in_a_batch_is_told_of_it_alone(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]", script=["ok", "500", "429", "lost", "401", "400"]) as server:
        found = asked(server.base_url, ledger, "abcdefg")
        assert len(server.batches) == 1 and server.count == 7
    kinds = [error.kind if isinstance(error, TeacherError) else "" for error in found]
    assert kinds == ["", "server", "rate", "server", "auth", "refused", ""]
    assert "without an answer" in str(found[3])
    assert ledger.count() == 2


def test_a_key_that_a_server_quotes_is_struck_out(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with BatchServer(tmp_path / "log", text="[]", script=["401"]) as server:
        server.quoted = f": incorrect API key {KEY}"
        (refused,) = asked(server.base_url, ledger, "a")
    assert "401: incorrect API key [redacted]" in str(refused)


def test_batches_are_no_longer_than_they_may_be(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        found = asked(server.base_url, ledger, "abcdefgh", size=3)
        sizes = sorted(len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values())
    assert sizes == [2, 3, 3] and all(isinstance(reply, Reply) for reply in found)


def test_a_batch_that_fails_as_a_whole_is_told_and_not_tried_again(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        server.ends = "failed"
        found = asked(server.base_url, ledger, "ab")
        assert all(isinstance(error, TeacherError) and error.fatal and "failed" in str(error) for error in found)
        assert ledger.count() == 0 and not list((tmp_path / "batches").rglob("*.*"))
        server.ends = "completed"
        assert all(isinstance(reply, Reply) for reply in asked(server.base_url, ledger, "ab")), (
            "it stands in nobody's way"
        )


def test_a_failed_batch_of_an_earlier_run_stands_in_nobodys_way(
    tmp_path: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        folder = made(server.base_url, ledger)._folder
        folder.mkdir(parents=True)
        (folder / "ab.jsonl").write_text("")
        (folder / "ab.id").write_text("batch-nobody-knows")
        assert isinstance(asked(server.base_url, ledger, "a")[0], Reply)
    assert "given up" in capsys.readouterr().err and not list(folder.iterdir())


def test_a_poll_that_fails_does_not_cost_the_batch(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        server.faults = [503, 0, 0, 502]  # of what is looked at: the first look, and the first download
        found = asked(server.base_url, ledger, "abc")
        assert len(server.batches) == 1 and server.count == 3 and not server.faults
    assert all(isinstance(reply, Reply) for reply in found)


def test_what_cannot_be_written_down_waits_for_the_next_run(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        with monkeypatch.context() as full:
            full.setattr(ledger, "put_all", _no_room)
            found = asked(server.base_url, ledger, "ab")
        assert all(isinstance(error, StoreError) for error in found)
        asked(server.base_url, ledger, "")  # looks for what is under way, and asks nothing
        assert ledger.count() == 2 == server.count and len(server.batches) == 1


def _no_room(calls: object) -> None:
    raise StoreError("the disk is full", "make room")


def test_a_batch_that_was_taken_and_not_told_is_found(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        server.silent = True
        found = asked(server.base_url, ledger, "abc")
        assert len(server.batches) == 1 and all(isinstance(reply, Reply) for reply in found)


def test_a_server_without_schemas_is_asked_again_without_them(tmp_path: Path, ledger: Ledger) -> None:
    async def inside(teacher: BatchTeacher) -> tuple[list[Reply | BaseException], list[Reply]]:
        wanted = [question(text, json_schema={"type": "array"}) for text in "ab"]
        first = await asyncio.gather(*map(teacher.complete, wanted), return_exceptions=True)
        second = await asyncio.gather(*map(teacher.complete, wanted))
        await teacher.aclose()
        return first, second

    with BatchServer(tmp_path / "log", text="[]", script=["400", "400"]) as server:
        first, second = asyncio.run(inside(made(server.base_url, ledger)))
        assert ["response_format" in body for body in server.requests] == [True, True, False, False]
    assert all(isinstance(error, TeacherError) and error.kind == "bad_reply" for error in first)  # worth another try
    assert [reply.text for reply in second] == ["[]", "[]"]


def test_lines_that_unicode_alone_would_end_are_whole(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="one\u2028two\x85three") as server:
        found = asked(server.base_url, ledger, ["a\u2028b", "c"])
    assert [reply.text for reply in found if isinstance(reply, Reply)] == ["one\u2028two\x85three"] * 2


def test_one_by_one_does_not_pay_again_for_what_a_batch_has_under_way(tmp_path: Path, ledger: Ledger) -> None:
    url = "http://127.0.0.1:9/v1"
    folder = made(url, ledger)._folder
    folder.mkdir(parents=True)
    (folder / "0123.jsonl").write_text("")
    direct = build_teacher(TeacherConfig(model="fake", base_url=url), Runtime(), ledger)
    with pytest.raises(TeacherError, match="has a batch") as caught:
        asyncio.run(direct.prepare())
    assert "teacher.batch" in caught.value.hint


def test_a_server_without_batches_is_told(tmp_path: Path, ledger: Ledger) -> None:
    with TeacherServer(tmp_path / "log") as server:
        teacher = made(server.base_url, ledger)
        teacher._folder.mkdir(parents=True)
        (teacher._folder / "0123.jsonl").write_text("")  # an earlier run's

        async def inside() -> None:
            try:
                await teacher.prepare()
            finally:
                await teacher.aclose()

        with pytest.raises(TeacherError):
            asyncio.run(inside())


@pytest.mark.parametrize("named", [True, False], ids=["named", "killed before it was named"])
def test_after_a_kill_the_batch_is_waited_for_and_nothing_is_sent_twice(tmp_path: Path, named: bool) -> None:
    write_task(tmp_path)
    with BatchServer(tmp_path / "log.jsonl", polls=10**9) as server:
        line = command(*sampling(server.base_url, *BATCH))
        with subprocess.Popen(line, cwd=tmp_path, env=environment(), start_new_session=True) as process:
            until = time.monotonic() + 60
            folder = tmp_path / ".workbench" / "batches"
            while not list(folder.rglob("*.id")) and time.monotonic() < until:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
        ids = list(folder.rglob("*.id"))
        assert len(ids) == 1
        if not named:
            ids[0].unlink()
        server.polls = 0
        done = here(tmp_path, *sampling(server.base_url, *BATCH))
        assert done.returncode == 0, done.stdout + done.stderr
        bodies = [json.dumps(body, sort_keys=True) for body in server.requests]
        assert len(bodies) == len(set(bodies)), "nothing was asked twice"
        assert "which a stopped run has under way" in done.stderr


def test_a_file_that_never_became_a_batch_is_forgotten(tmp_path: Path, ledger: Ledger) -> None:
    with BatchServer(tmp_path / "log", text="[]") as server:
        folder = made(server.base_url, ledger)._folder
        folder.mkdir(parents=True)
        (folder / "0123.jsonl").write_text("")
        (found,) = asked(server.base_url, ledger, "a")
        assert isinstance(found, Reply) and not list(folder.iterdir())


def test_a_batch_costs_half() -> None:
    sets = ("teacher.price_in=3", "teacher.price_out=8", "teacher.base_url=https://example.com/v1")
    assert load_config(sets=sets).teacher.price == (3, 8)
    assert load_config(sets=(*sets, *BATCH)).teacher.price == (1.5, 4)
    with pytest.raises(ConfigError, match="may take a day"):
        load_config(sets=(*sets, "teacher.batch=5"))
