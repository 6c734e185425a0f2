"""The transport of an API: aiohttp's, by the short way.

httpx walks each request through auth flows, redirects, cookies and hooks; the POST of an API needs none of that, and where
hundreds are under way it is a fifth of a request's CPU. httpx's own transport takes ten times that of aiohttp's.
"""

import asyncio
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from typing import Any

import httpx
from openai import DefaultAioHttpClient

TWICE = "sent twice"  # among a response's extensions: of two requests this one was answered first


class Wire(DefaultAioHttpClient):
    """An `http_client` for AsyncOpenAI, which sends a request without it too (`exchange`).

    `lane` is held while the server has a request. `timeout_s`: for the whole of one; the transport's own time begins anew with
    each byte that comes. `hedge_s`: what is not there after so long is sent once more, and the first success counts (the
    "hedged requests" of Dean and Barroso 2013); 0: it is waited for.
    """

    def __init__(
        self, *, timeout_s: float, lane: AbstractAsyncContextManager[object] | None = None, hedge_s: float = 0.0
    ) -> None:
        super().__init__()
        self._lane = lane or nullcontext()
        self._timeout_s, self._hedge_s = timeout_s, hedge_s

    async def exchange(self, request: httpx.Request) -> httpx.Response:
        """The reply, read; `elapsed` is how long the server had the request. Raises TimeoutError, and what `send` raises."""
        async with self._lane:
            return await (self._hedged(request) if self._hedge_s else self._timed(request))

    async def _timed(self, request: httpx.Request) -> httpx.Response:
        began = time.monotonic()
        async with asyncio.timeout(self._timeout_s):
            response = await self.send(request)
        response.elapsed = timedelta(seconds=time.monotonic() - began)
        return response

    async def _hedged(self, request: httpx.Request) -> httpx.Response:
        """The second one waits for a lane of its own. Where neither is a success, the first one tells why."""
        both, left = [asyncio.create_task(self._timed(request))], asyncio.Event()
        try:
            _, pending = await asyncio.wait(both, timeout=self._hedge_s)
            if pending:
                both.append(asyncio.create_task(self._second(request, left)))
                pending = set(both)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if one.exception() is None and one.result().is_success:
                        one.result().extensions[TWICE] = left.is_set()
                        return one.result()
            return await both[0]
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _second(self, request: httpx.Request, left: asyncio.Event) -> httpx.Response:
        async with self._lane:
            left.set()
            return await self._timed(request)

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """A redirect goes the long way, for it was not answered."""
        response = await self._transport_for_url(request.url).handle_async_request(request)
        response.request = request
        if response.has_redirect_location:
            await response.aclose()
            return await super().send(request, stream=stream, **options)
        if not stream:
            await response.aread()
        return response
