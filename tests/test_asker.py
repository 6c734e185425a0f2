"""The asker over a real wire: the same question once, retries where they help, budgets that nobody passes."""

import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import TeacherServer
from small import question, teacher_at

from workbench import ledger_views
from workbench.errors import TeacherError
from workbench.ledger import Ledger, Paid
from workbench.teachers.asker import DEAD_AFTER, Asker, Limits
from workbench.teachers.pace import Pace
from workbench.teachers.scripted import Scripted
from workbench.types import Reply, Request, Usage


def asking(url: str, ledger: Ledger, use: Callable[[Asker], Awaitable[None]], **options: object) -> Asker:
    """Runs `use` with an asker of the server, and gives the asker to look at."""

    async def inside() -> Asker:
        teacher = teacher_at(url)
        try:
            asker = Asker(teacher, ledger, **options)  # type: ignore[arg-type]
            await use(asker)
            return asker
        finally:
            await teacher.aclose()

    return asyncio.run(inside())


def test_the_same_question_is_sent_once(server: TeacherServer, ledger: Ledger) -> None:
    server.latency_s = 0.05

    async def use(asker: Asker) -> None:
        at_once = await asyncio.gather(*(asker.ask(question()) for _ in range(5)))
        later = await asker.ask(question())
        assert len({*at_once, later}) == 1
        await asker.ask(question(k=1))  # the same words, another draw

    asker = asking(server.base_url, ledger, use)
    assert server.count == 2
    assert (asker.spent.calls, asker.spent.sent) == (2, 2)
    again = asking(server.base_url, ledger, use)
    assert server.count == 2
    assert (again.spent.calls, again.spent.sent) == (2, 0), "what was paid for earlier counts, and is not sent"
    assert again.spent.tokens == asker.spent.tokens > 0


def test_one_who_gives_up_waiting_does_not_take_the_reply_from_the_others(
    server: TeacherServer, ledger: Ledger
) -> None:  # fmt: skip
    server.latency_s = 0.1

    async def use(asker: Asker) -> None:
        first, second = (asyncio.create_task(asker.ask(question())) for _ in range(2))
        await asyncio.sleep(0.03)
        first.cancel()
        assert (await second)[1].text == "[]"

    asking(server.base_url, ledger, use)
    assert server.count == 1


@pytest.mark.parametrize("deed", ["500", "half", "reset", "empty", "429"])
def test_what_can_be_mended_by_trying_again_is_tried_again(server: TeacherServer, ledger: Ledger, deed: str) -> None:
    server.script = [deed]

    async def use(asker: Asker) -> None:
        start = asyncio.get_running_loop().time()
        assert (await asker.ask(question()))[1].text == "[]"
        if deed == "429":
            assert asyncio.get_running_loop().time() - start >= 1.0, "the server asked to wait a second"

    asker = asking(server.base_url, ledger, use)
    assert server.count == 2
    assert (asker.spent.calls, asker.spent.sent, asker.spent.failed) == (1, 1, 0)
    assert [len(rows) for rows in ledger_views.read(ledger.path)] == [1, 1], "a call, and the failure before it"


@pytest.mark.parametrize("deed", ["401", "400", "404"])
def test_what_cannot_is_not(server: TeacherServer, ledger: Ledger, deed: str) -> None:
    server.script = [deed] * 9

    async def use(asker: Asker) -> None:
        with pytest.raises(TeacherError):
            await asker.ask(question())

    asker = asking(server.base_url, ledger, use)
    assert server.count == 1
    assert (asker.spent.calls, asker.spent.failed, ledger.count()) == (0, 1, 0)


def test_attempts_end(server: TeacherServer, ledger: Ledger) -> None:
    server.script = ["500"] * 9

    async def use(asker: Asker) -> None:
        with pytest.raises(TeacherError, match="HTTP 500") as caught:
            await asker.ask(question())
        assert not caught.value.fatal

    asking(server.base_url, ledger, use, attempts=2)
    assert server.count == 2


def test_a_dead_teacher_is_not_asked_on_and_on(server: TeacherServer, ledger: Ledger) -> None:
    server.script = ["500"] * 1000

    async def use(asker: Asker) -> None:
        found = await asyncio.gather(*(asker.ask(question(str(n))) for n in range(100)), return_exceptions=True)
        assert all(isinstance(item, TeacherError) for item in found)
        with pytest.raises(TeacherError, match=r"failures in a row, the last: .* \(HTTP 500\)") as caught:
            await asker.ask(question("one more"))
        assert caught.value.fatal

    async def stop_at_the_first(asker: Asker) -> None:
        with pytest.raises(TeacherError) as caught:
            await asyncio.gather(*(one(asker, n) for n in range(100)))
        assert caught.value.fatal

    async def one(asker: Asker, n: int) -> None:
        try:
            await asker.ask(question(str(n)))
        except TeacherError as error:
            if error.fatal:
                raise

    asking(server.base_url, ledger, stop_at_the_first, concurrency=2, attempts=1)
    assert DEAD_AFTER <= server.count <= DEAD_AFTER + 2
    asking(server.base_url, ledger, use, concurrency=2, attempts=1)


def test_one_hiccup_under_full_load_is_survived(server: TeacherServer, ledger: Ledger) -> None:
    """All that was under way fails at once, as when a server restarts: that is no death."""
    server.script = ["503"] * 16

    async def use(asker: Asker) -> None:
        await asyncio.gather(*(asker.ask(question(str(n))) for n in range(16)))

    asker = asking(server.base_url, ledger, use, concurrency=16)
    assert asker.spent.sent == 16
    assert server.busiest <= 16


def test_the_budget_of_calls_is_not_passed(server: TeacherServer, ledger: Ledger) -> None:
    """By nobody: not by those who ask at once, and not by what the ledger holds."""
    server.latency_s = 0.02

    async def use(asker: Asker) -> None:
        found = await asyncio.gather(*(asker.ask(question(str(n))) for n in range(20)), return_exceptions=True)
        refused = [item for item in found if isinstance(item, TeacherError)]
        assert len(refused) == 13
        assert {(error.kind, error.fatal) for error in refused} == {("budget", False)}
        assert "budget of 7 calls is spent" in str(refused[0])
        assert "max_calls" in refused[0].hint
        assert not isinstance(found[6], TeacherError), "the first come first"

    for paid_before in (0, 7):
        asker = asking(server.base_url, ledger, use, limits=Limits(calls=7))
        assert (asker.spent.calls, asker.spent.sent) == (7, 7 - paid_before)
    assert server.count == ledger.count() == 7


def test_the_budgets_of_tokens_money_and_minutes(server: TeacherServer, ledger: Ledger) -> None:
    async def use(asker: Asker) -> None:
        await asker.ask(question("a b c d"))  # 4 read, 1 written
        with pytest.raises(TeacherError, match="budget of 5 tokens is spent"):
            await asker.ask(question("e"))

    for _ in range(2):  # paid now, found in the ledger
        assert asking(server.base_url, ledger, use, limits=Limits(tokens=5)).spent.tokens == 5
    assert server.count == 1

    async def dear(asker: Asker) -> None:
        await asker.ask(question("a b c d"))
        assert asker.spent.money == pytest.approx((4 * 100 + 1 * 500) / 1e6)
        with pytest.raises(TeacherError, match="in money is spent"):
            await asker.ask(question("e"))

    asking(server.base_url, ledger, dear, limits=Limits(money=0.0009), price=(100.0, 500.0))
    assert server.count == 1

    async def late(asker: Asker) -> None:
        with pytest.raises(TeacherError, match="budget of 0 minutes is spent"):
            await asker.ask(question("f"))
        await asker.ask(question("g"), late=True)

    asking(server.base_url, ledger, late, limits=Limits(minutes=0))
    assert server.count == 2, "what work done before rests on may come late"


def test_minutes_of_an_earlier_run_count(ledger: Ledger) -> None:
    """Three calls, two of them side by side, took three minutes. Found again they take none, and leave none of three."""
    now = datetime.now(UTC)
    for name, ended_ago, seconds in (("a", 600, 120.0), ("b", 600, 90.0), ("c", 60, 59.0)):
        asked = question(name)
        ledger.put(ledger.key("toy", asked), "toy", asked, Reply(text=name, seconds=seconds))
        created = (now - timedelta(seconds=ended_ago)).isoformat(timespec="milliseconds")
        with sqlite3.connect(ledger.path) as db:
            db.execute("UPDATE calls SET created = ? WHERE key = ?", (created, ledger.key("toy", asked)))

    async def again(limits: Limits) -> Asker:
        asker = Asker(Scripted(lambda _: "new", "toy"), ledger, limits=limits)
        for name in "abc":
            assert (await asker.ask(question(name)))[1].text == name
        return asker

    asker = asyncio.run(again(Limits(minutes=3)))
    assert asker.spent.minutes == pytest.approx(3, abs=0.1)
    with pytest.raises(TeacherError, match="budget of 3 minutes is spent"):
        asyncio.run(asker.ask(question("new")))
    asker = asyncio.run(again(Limits(minutes=1)))
    assert asker.spent.calls == 3, "what is there is given though the minutes are up"


class Random(Scripted):
    """Replies of any length, in any order; `prices` holds what each one cost."""

    def __init__(self, sizes: list[tuple[int, int]], price: tuple[float, float], rng: random.Random) -> None:
        super().__init__(lambda request: "[]")
        self.sizes, self.price, self.rng = sizes, price, rng
        self.paid: list[tuple[float, int]] = []
        self.busiest = self.busy = 0
        self.lanes = asyncio.Semaphore(10**6)

    async def complete(self, request: Request) -> Reply:
        async with self.lanes:
            return await self.answer(request)

    async def answer(self, request: Request) -> Reply:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)
        self.busy -= 1
        read, written = self.sizes[len(self.paid) % len(self.sizes)]
        self.paid.append(((read * self.price[0] + written * self.price[1]) / 1e6, read + written))
        return Reply(text="[]", usage=Usage(prompt_tokens=read, completion_tokens=written))


def chat(number: int, read: int, written: int) -> Request:
    """A request that no reader finds longer, and that may be answered at such length."""
    return question(f"{number:<{read}}", max_tokens=max(1, written))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 2000)), min_size=1, max_size=8),
    price=st.tuples(st.floats(0.01, 50), st.floats(0.01, 200)),
    concurrency=st.integers(1, 12),
    ahead=st.sampled_from([0.0, 0.5]),
    share=st.floats(0.05, 1.2),
    seed=st.integers(0, 10**6),
)
def test_no_cap_is_passed_by_more_than_what_is_under_way(
    tmp_path: Path,
    sizes: list[tuple[int, int]],
    price: tuple[float, float],
    concurrency: int,
    ahead: float,
    share: float,
    seed: int,
) -> None:
    """Over random prices, lengths, orders and caps of money, tokens and calls, and for a teacher that is given some ahead."""
    asked, rng = 30, random.Random(seed)
    whole = [sizes[n % len(sizes)] for n in range(asked)]
    money = share * sum(read * price[0] + written * price[1] for read, written in whole) / 1e6
    tokens, calls = int(share * sum(map(sum, whole))) + 1, max(1, int(1.3 * share * asked))

    async def run(limits: Limits, ledger: Ledger) -> tuple[Random, Asker]:
        teacher = Random(sizes, price, rng)
        teacher.lanes = asyncio.Semaphore(concurrency)
        pace = Pace(concurrency, ahead=ahead)
        asker = Asker(teacher, ledger, limits=limits, concurrency=concurrency, price=price, pace=pace)
        longest = [max(size[place] for size in sizes) for place in (0, 1)]
        requests = (asker.ask(chat(n, *longest)) for n in range(asked))
        for error in await asyncio.gather(*requests, return_exceptions=True):
            assert not isinstance(error, BaseException) or getattr(error, "kind", "") == "budget", error
        assert teacher.busiest <= concurrency
        return teacher, asker

    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        for name, limits in {"m": Limits(money=money), "t": Limits(tokens=tokens), "c": Limits(calls=calls)}.items():
            with Ledger(Path(folder) / f"{name}.sqlite", run="r") as ledger:
                teacher, asker = asyncio.run(run(limits, ledger))
            under_way = sorted(teacher.paid, reverse=True)[:concurrency]
            assert sum(paid for paid, _ in teacher.paid) <= limits.money + sum(paid for paid, _ in under_way) + 1e-12
            most = sorted((size for _, size in teacher.paid), reverse=True)[:concurrency]
            assert sum(size for _, size in teacher.paid) <= limits.tokens + sum(most)
            assert len(teacher.paid) <= limits.calls
            assert asker.ended or len(teacher.paid) == asked, "what no cap forbids is asked"


def test_what_came_is_written_though_the_run_is_cancelled(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies wait for a commit together; one that came while the disk was busy is not lost with the run that waits for it."""
    teacher, commits, put_all = Scripted(lambda request: "[]"), list[int](), ledger.put_all

    def slow(calls: Sequence[Paid]) -> list[Reply]:
        commits.append(len(calls))
        time.sleep(0.1)
        return put_all(calls)

    monkeypatch.setattr(ledger, "put_all", slow)

    async def use() -> None:
        asker = Asker(teacher, ledger, concurrency=20)
        asking = [asyncio.create_task(asker.ask(question(str(n)))) for n in range(20)]
        await asyncio.wait(asking, timeout=0.05)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        asyncio.run(use())
    assert len(teacher.history) == 20
    assert commits[0] == 20, "many in one commit"
    assert ledger.count() == 20


def test_a_reply_is_in_the_ledger_before_it_is_seen(ledger: Ledger) -> None:
    async def use() -> None:
        asker = Asker(Scripted(lambda request: "first"), ledger)
        answer = await asker.ask(question())
        assert ledger.get(answer.call) == answer.reply

    asyncio.run(use())
