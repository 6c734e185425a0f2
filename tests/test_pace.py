"""How fast requests leave: lanes that close at a 429 and open again, waits that all keep, rates that nobody passes."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from workbench.teachers import pace as pace_module
from workbench.teachers.pace import Pace
from workbench.teachers.posted import AHEAD


def busiest(pace: Pace, count: int, work: Callable[[int], Awaitable[None]]) -> int:
    """How many were inside at once, over `count` requests that all want to go."""
    inside = most = 0

    async def one(number: int) -> None:
        nonlocal inside, most
        async with pace:
            inside += 1
            most = max(most, inside)
            await work(number)
            inside -= 1

    async def everyone() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(one(number) for number in range(count)))

    asyncio.run(everyone())
    return most


async def short(_: int) -> None:
    await asyncio.sleep(0.002)


def test_no_more_than_its_lanes_are_inside() -> None:
    assert busiest(Pace(5), 40, short) == 5


def test_a_teacher_that_holds_back_is_given_some_ahead() -> None:
    assert busiest(Pace(16, ahead=0.125), 80, short) == 18
    assert busiest(Pace(6, ahead=0.125), 40, short) == 6, "of few lanes none"
    pace = Pace(16, ahead=0.125)
    pace.strict = True
    assert busiest(pace, 80, short) == 16


def test_a_429_halves_the_lanes_once_and_good_replies_open_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "HALVED_ONCE_S", 60.0)
    pace = Pace(16)
    for _ in range(10):  # all that were under way
        pace.slow_down(0)
    assert pace.lanes == 8
    assert busiest(pace, 40, short) == 8
    replies = 0
    while pace.lanes < 16:
        pace.went_well(0)
        replies += 1
    assert 8 * 8 < replies < 16 * 16, "about one lane for each round of replies"
    assert busiest(pace, 40, short) == 16
    for _ in range(20):
        pace._halved = 0.0
        pace.slow_down(0)
    assert pace.lanes == 1 and busiest(pace, 5, short) == 1


def test_one_that_has_had_too_much_is_given_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace_module, "HALVED_ONCE_S", 60.0)
    pace = Pace(16, ahead=AHEAD)
    assert busiest(pace, 80, short) == pace.most_inside == 24
    pace.slow_down(0)
    assert busiest(pace, 40, short) == 8
    while pace.lanes < 16:
        pace.went_well(0)
    assert busiest(pace, 80, short) == 24
    for counted in ({"requests_a_minute": 1e9}, {"tokens_a_minute": 1e9}):
        assert busiest(Pace(16, ahead=AHEAD, **counted), 80, short) == 16, "what waits beyond would leave uncounted"


def test_all_wait_while_a_server_asks_to() -> None:
    pace, left = Pace(4), list[float]()

    async def work(_: int) -> None:
        left.append(time.monotonic())

    pace.slow_down(0.3)
    begin = time.monotonic()
    busiest(pace, 8, work)
    assert len(left) == 8 and min(left) - begin > 0.29


def test_requests_a_minute_are_spread() -> None:
    begin = time.monotonic()
    busiest(Pace(50, requests_a_minute=6000), 60, short)
    assert 0.59 < time.monotonic() - begin < 3


def test_tokens_a_minute_are_not_passed() -> None:
    pace = Pace(1, tokens_a_minute=60_000)

    async def work(_: int) -> None:
        pace.went_well(100)  # a tenth of a second's worth

    begin = time.monotonic()
    busiest(pace, 6, work)
    assert 0.49 < time.monotonic() - begin < 3


def test_one_who_gives_up_waiting_leaves_his_turn_to_the_next() -> None:
    async def run() -> None:
        pace, done = Pace(1), list[str]()

        async def one(name: str, seconds: float) -> None:
            async with pace:
                await asyncio.sleep(seconds)
                done.append(name)

        tasks = [asyncio.create_task(one(name, 0.02)) for name in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert done == ["a", "c"]

    asyncio.run(run())
