"""The transport of an API: aiohttp's, by the short way.

httpx walks each request through auth flows, redirects, cookies and hooks; the POST of an API needs none of that, and where
hundreds are under way it is a fifth of a request's CPU. httpx's own transport takes ten times that of aiohttp's.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import httpx
from openai import DefaultAioHttpClient

TOO_MANY = HTTPStatus.TOO_MANY_REQUESTS
TWICE = "sent twice"  # among a response's extensions: of two requests this one was answered first


class Wire(DefaultAioHttpClient):
    """An `http_client` for AsyncOpenAI, which sends a request without it too (`exchange`).

    `lane` is held while the server has a request. `timeout_s`: for the whole of one; the transport's own time begins anew with
    each byte that comes. `hedge_s`: what is not there after so long is sent once more, in a lane of its own, and the first
    success counts (the "hedged requests" of Dean and Barroso 2013); 0: it is waited for.
    """

    def __init__(
        self, *, timeout_s: float, lane: AbstractAsyncContextManager[object] | None = None, hedge_s: float = 0.0
    ) -> None:
        super().__init__()
        self._lane = lane or nullcontext()
        self._timeout_s, self._hedge_s = timeout_s, hedge_s

    async def exchange(self, request: httpx.Request) -> httpx.Response:
        """The reply, read; `elapsed` is how long the server had the request. Raises TimeoutError, and what `send` raises."""
        return await (self._hedged(request) if self._hedge_s else self._once(request, asyncio.Event()))

    async def _once(
        self, request: httpx.Request, left: asyncio.Event, other: "asyncio.Task[httpx.Response] | None" = None
    ) -> httpx.Response:
        """`left` is set when it leaves. It does not where the `other` one is done by the time that a lane is free."""
        async with self._lane:
            if other is not None and other.done():
                return other.result()
            left.set()
            began = time.monotonic()
            async with asyncio.timeout(self._timeout_s):
                response = await self.send(request)
            response.elapsed = timedelta(seconds=time.monotonic() - began)
        return response

    async def _hedged(self, request: httpx.Request) -> httpx.Response:
        """A failure of the first is waited out only where the second has left by then. Where neither is a success, a server's
        wish to slow down is told, else what became of the first."""
        gone, left, began = asyncio.Event(), asyncio.Event(), 0.0
        first = asyncio.create_task(self._once(request, gone))

        async def later() -> httpx.Response:
            nonlocal began
            await gone.wait()
            began = time.monotonic()
            await asyncio.sleep(self._hedge_s)
            return await self._once(request, left, first)

        second = asyncio.create_task(later())
        try:
            pending = {first, second}
            while first in pending or (pending and left.is_set()):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if one.exception() is None and (reply := one.result()).is_success:
                        reply.extensions[TWICE] = left.is_set()
                        if left.is_set():
                            reply.elapsed = timedelta(seconds=time.monotonic() - began)
                        return reply
            asked_to_wait = not pending and second.exception() is None and second.result().status_code == TOO_MANY
            return await (second if asked_to_wait else first)
        finally:
            for one in (first, second):
                one.cancel()
            await asyncio.gather(first, second, return_exceptions=True)

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """A redirect goes the long way, for it was not answered."""
        response = await self._transport_for_url(request.url).handle_async_request(request)
        response.request = request
        if response.has_redirect_location:
            await response.aclose()
            return await super().send(request, stream=stream, **options)
        if not stream:
            try:
                await response.aread()
            except BaseException:  # given up midway: the server is to know
                await response.aclose()
                raise
        return response
