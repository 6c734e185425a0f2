"""The post: a process of its own that asks an API, and brings each reply into the ledger whatever becomes of the run."""

import asyncio
import fcntl
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from servers import TeacherServer
from small import question

from workbench.config import Runtime, TeacherConfig
from workbench.errors import StoreError, TeacherError
from workbench.ledger import Ledger, Paid
from workbench.teachers import posted
from workbench.teachers.build import build_teacher
from workbench.teachers.posted import PostedTeacher, lock_file, wait_for_earlier, wait_for_posts
from workbench.types import Reply, Request, Usage


def made(url: str, ledger: Ledger, timeout_s: float = 10.0, concurrency: int = 16) -> PostedTeacher:
    runtime = Runtime(timeout_s=timeout_s, concurrency=concurrency)
    teacher = build_teacher(TeacherConfig(model="fake", base_url=url), runtime, ledger)
    assert isinstance(teacher, PostedTeacher)
    return teacher


def using(teacher: PostedTeacher, use: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        try:
            async with asyncio.timeout(60):
                await teacher.prepare()
                await use()
        finally:
            await teacher.aclose()

    asyncio.run(inside())


async def kept(teacher: PostedTeacher, request: Request) -> Reply:
    """The reply, once it is in the ledger."""
    reply = await teacher.complete(request)
    return await teacher.put(Paid(Ledger.key(teacher.model, request), teacher.model, request, reply))


def test_a_reply_is_in_the_ledger_when_it_is_told_to_be(server: TeacherServer, ledger: Ledger) -> None:
    teacher = made(server.base_url, ledger)

    async def use() -> None:
        replies = await asyncio.gather(*(kept(teacher, question(str(n))) for n in range(20)))
        keys = [ledger.key(teacher.model, question(str(n))) for n in range(20)]
        assert [ledger.get(key) for key in keys] == replies
        assert {reply.text for reply in replies} == {"[]"}
        assert teacher._post is not None
        processes.append(teacher._post.process)

    processes: list[subprocess.Popen[bytes]] = []
    using(teacher, use)
    assert server.count == 20
    assert processes[0].poll() is not None, "it has ended"


def test_half_a_surrogate_pair_is_kept_as_what_can_be_written(server: TeacherServer, ledger: Ledger) -> None:
    teacher = made(server.base_url, ledger)
    server.text = "cut \ud83d"

    async def use() -> None:
        assert (await kept(teacher, question("emoji"))).text == "cut \ufffd"

    using(teacher, use)
    assert ledger.count() == 1


def test_errors_come_as_they_are(server: TeacherServer, ledger: Ledger) -> None:
    teacher = made(server.base_url, ledger, timeout_s=1.0)
    server.script = ["429", "hang", "401"]

    async def use() -> None:
        for number, (kind, fatal, wait_s) in enumerate(
            [("rate", False, 1.0), ("timeout", False, 0), ("auth", True, 0.0), ("auth", True, 0.0)]
        ):
            with pytest.raises(TeacherError) as caught:
                await teacher.complete(question(str(number)))
            assert (caught.value.kind, caught.value.fatal, caught.value.wait_s) == (kind, fatal, wait_s)
            assert caught.value.hint

    using(teacher, use)
    assert ledger.count() == 0
    assert server.count == 3, "after what nothing can mend none is sent"


def test_a_post_that_is_killed_is_told_and_started_anew(server: TeacherServer, ledger: Ledger) -> None:
    teacher = made(server.base_url, ledger)

    async def use() -> None:
        await kept(teacher, question("before"))
        assert teacher._post is not None
        server.latency_s = 3
        waiting = asyncio.create_task(teacher.complete(question("meanwhile")))
        while server.count < 2:
            await asyncio.sleep(0.01)
        os.kill(teacher._post.process.pid, signal.SIGKILL)
        with pytest.raises(TeacherError, match="died") as caught:
            await waiting
        assert (caught.value.kind, caught.value.fatal) == ("network", False)
        server.latency_s = 0
        assert (await kept(teacher, question("after"))).text == "[]"

    using(teacher, use)
    assert ledger.count() == 2


def test_what_a_killed_post_was_answered_is_written_by_the_run(server: TeacherServer, ledger: Ledger) -> None:
    teacher = made(server.base_url, ledger)
    another = sqlite3.connect(ledger.path, isolation_level=None)

    async def use() -> None:
        another.execute("BEGIN IMMEDIATE")  # the post cannot write
        reply = await teacher.complete(question("paid for"))
        assert teacher._post is not None
        os.kill(teacher._post.process.pid, signal.SIGKILL)
        another.execute("ROLLBACK")
        call = Paid(Ledger.key(teacher.model, question("paid for")), teacher.model, question("paid for"), reply)
        assert await teacher.put(call) == reply
        assert ledger.get(call.key) == reply

    using(teacher, use)
    another.close()
    assert (ledger.count(), server.count) == (1, 1)


def test_of_two_runs_that_ask_the_same_the_first_reply_stands(server: TeacherServer, ledger: Ledger) -> None:
    teacher, request = made(server.base_url, ledger), question("both")
    first = Reply(text="[1]", finish="stop", usage=Usage(), seconds=1.0)

    async def use() -> None:
        ledger.put(Ledger.key(teacher.model, request), teacher.model, request, first)
        assert await kept(teacher, request) == first

    using(teacher, use)
    assert ledger.count() == 1


def test_who_asks_while_a_dead_post_is_cleared_away_is_not_told_of_its_death(
    server: TeacherServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told so, he would send again what the new post has under way."""
    teacher, ended = made(server.base_url, ledger), posted._Post.ended

    async def slowly(post: posted._Post) -> int:
        await asyncio.sleep(3)
        return await ended(post)

    monkeypatch.setattr(posted._Post, "ended", slowly)

    async def use() -> None:
        await teacher.complete(question("before"))
        first = teacher._post
        assert first is not None
        os.kill(first.process.pid, signal.SIGKILL)
        while teacher._post is first:
            await asyncio.sleep(0.01)
        server.latency_s = 4
        assert (await teacher.complete(question("meanwhile"))).text == "[]"

    using(teacher, use)
    assert server.count == 2


def test_what_is_under_way_at_the_end_comes_into_the_ledger_and_the_next_waits_for_it(
    server: TeacherServer, ledger: Ledger
) -> None:
    teacher = made(server.base_url, ledger)
    server.latency_s = 2

    async def use() -> None:
        asking = [asyncio.create_task(teacher.complete(question(str(n)))) for n in range(5)]
        while server.count < 5:
            await asyncio.sleep(0.01)
        for task in asking:
            task.cancel()

    begin = time.monotonic()
    using(teacher, use)
    assert ledger.count() == 0
    with pytest.raises(TeacherError, match="not asked any more"):
        asyncio.run(teacher.complete(question("late")))
    asyncio.run(made(server.base_url, ledger).prepare())
    assert ledger.count() == 5 and time.monotonic() - begin > 1.9
    assert server.count == 5


def test_a_ledger_that_cannot_be_opened_is_told(server: TeacherServer, tmp_path: Path) -> None:
    with Ledger(tmp_path / "other" / "ledger.sqlite") as ledger:
        teacher = made(server.base_url, ledger)

        async def use() -> None:
            ledger.path.with_name("ledger.sqlite.lock").unlink()
            ledger.path.with_name("ledger.sqlite.lock").mkdir()
            with pytest.raises(StoreError, match=r"ledger\.sqlite"):
                await teacher.complete(question())

        using(teacher, use)
    assert server.count == 0


def test_waiting_is_told_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(posted, "TOLD_AFTER_S", 0.1)
    lock = lock_file(tmp_path / "ledger.sqlite", "fake")
    assert lock != lock_file(tmp_path / "ledger.sqlite", "another")
    held = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_SH)
    os.pwrite(held, b"0.4", 0)
    begin = time.monotonic()
    asyncio.run(wait_for_earlier(lock))
    assert 0.4 < time.monotonic() - begin < 5
    told = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in told] == ["waiting", "waited"]
    os.close(held)
    asyncio.run(wait_for_earlier(lock))
    assert capsys.readouterr().err == ""


def test_a_key_that_cannot_be_one_is_refused_before_it_is_sent(
    server: TeacherServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_TEST_KEY", "sk-live-“quoted”")
    config = TeacherConfig(model="m", base_url="https://api.example.org/v1", key_env="WORKBENCH_TEST_KEY")
    with pytest.raises(TeacherError, match="holds a character that no key has") as caught:
        build_teacher(config, Runtime(), ledger)
    assert "quoted" not in str(caught.value) + caught.value.hint


def test_what_waits_in_the_post_is_not_sent_when_the_run_is_gone(server: TeacherServer, ledger: Ledger) -> None:
    """Three are handed over, one at a time is sent; the first is brought home."""
    server.latency_s = 0.5
    teacher = made(server.base_url, ledger, concurrency=1)
    asked: list[asyncio.Task[Reply]] = []

    async def use() -> None:
        asked.extend(asyncio.create_task(teacher.complete(question(str(n)))) for n in range(3))
        while not server.count:
            await asyncio.sleep(0.01)

    using(teacher, use)
    asyncio.run(wait_for_posts(ledger.path))
    assert server.count == ledger.count() == 1


def test_what_waits_in_the_post_leaves_a_server_alone_that_asks_for_it(server: TeacherServer, ledger: Ledger) -> None:
    server.script[:] = ["429"]  # asks to wait for a second
    teacher = made(server.base_url, ledger, concurrency=1)

    async def use() -> None:
        began = time.monotonic()
        first, second = await asyncio.gather(*(kept(teacher, question(text)) for text in "ab"), return_exceptions=True)
        assert isinstance(first, TeacherError) and first.kind == "rate"
        assert isinstance(second, Reply)
        assert time.monotonic() - began >= 1

    using(teacher, use)
    assert server.count == 2
