"""How many requests are under way, and how fast they leave: as many as a teacher bears, found out by what it says.

Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP does it: a 429 halves the lanes, each lane's worth of
good replies opens one more. While a server asks to wait nobody sends. Requests and tokens a minute are spread evenly.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

WAIT_AT_MOST_S = 60.0  # however long a server asks to wait
HALVED_ONCE_S = 1.0  # all that were under way at once are told to slow down at once


class Pace:
    """A context manager around each request; at most `lanes` are inside at once. 0 requests or tokens a minute: any number.

    `ahead`: so many more, as a share of the lanes, are let in for a teacher that holds them back itself until it has room;
    none while it is `strict`, has had too much, or where requests or tokens a minute are counted, for that is done here.
    """

    def __init__(
        self, lanes: int, *, requests_a_minute: float = 0.0, tokens_a_minute: float = 0.0, ahead: float = 0.0
    ) -> None:
        self.most = lanes
        self.most_inside = int(lanes * (1 + ahead))
        self.strict = False
        self._ahead = ahead
        self.lanes = float(lanes)  # open now; between two whole numbers the lower counts
        self._inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._between_s = 60 / requests_a_minute if requests_a_minute else 0.0
        self._token_s = 60 / tokens_a_minute if tokens_a_minute else 0.0
        self._next = self._next_by_tokens = self._wait_until = self._halved = 0.0

    async def __aenter__(self) -> Self:
        await self._enter(first=False)
        return self

    @asynccontextmanager
    async def before_others(self) -> AsyncIterator[None]:
        """As the context manager itself, but ahead of all who wait: what was begun is ended before more is begun."""
        await self._enter(first=True)
        try:
            yield
        finally:
            self._out()

    async def _enter(self, *, first: bool) -> None:
        while not self._room():
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._queue.appendleft if first else self._queue.append)(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._call()  # the turn is another's
                raise
        self._inside += 1
        try:
            await self.leave()
        except BaseException:
            self._out()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out()

    async def leave(self) -> None:
        """Until one more request may be sent; a repeated one asks too."""
        while (wait := max(self._wait_until, self._next, self._next_by_tokens) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._next = max(self._next, time.monotonic()) + self._between_s

    def slow_down(self, wait_s: float) -> None:
        """A server had too much, and asks to be left alone for so long."""
        now = time.monotonic()
        self._wait_until = max(self._wait_until, now + wait_s)
        if now - self._halved >= HALVED_ONCE_S:
            self._halved = now
            self.lanes = max(1.0, self.lanes / 2)

    def went_well(self, tokens: int) -> None:
        """A reply came, that cost so many tokens."""
        self.lanes = min(float(self.most), self.lanes + 1 / self.lanes)
        self._next_by_tokens = max(self._next_by_tokens, time.monotonic()) + tokens * self._token_s
        self._call()

    def _out(self) -> None:
        self._inside -= 1
        self._call()

    def _room(self) -> int:
        whole = self.lanes == self.most and not (self.strict or self._between_s or self._token_s)
        ahead = self._ahead if whole else 0.0
        return max(0, int(int(self.lanes) * (1 + ahead)) - self._inside)

    def _call(self) -> None:
        """Those for whom there is room."""
        room = self._room()
        while room and self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                room -= 1
