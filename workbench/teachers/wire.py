"""The transport of an API: aiohttp's, by the short way.

httpx walks each request through auth flows, redirects, cookies and hooks; the POST of an API needs none of that, and where
hundreds are under way it is a fifth of a request's CPU. httpx's own transport takes ten times that of aiohttp's.
"""

from typing import Any

import httpx
from openai import DefaultAioHttpClient


class Wire(DefaultAioHttpClient):
    """An `http_client` for AsyncOpenAI, which sends a request without it too."""

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
