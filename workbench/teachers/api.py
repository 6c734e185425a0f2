"""Any OpenAI-compatible server. The key comes from a named environment variable.

`openai`'s async client says where and as whom to ask. The chats themselves leave by the short way (`wire.py`): where hundreds
are under way, what the client does around each of them is a quarter of its CPU.
"""

import calendar
import json
import math
import os
import time
from contextlib import AbstractAsyncContextManager
from email.utils import parsedate
from http import HTTPStatus
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from workbench.errors import TeacherError
from workbench.ledger import redact, writable
from workbench.types import Reply, Request, TokenLogprobs, Usage

FORMAT = "response_format"
SHORTEST_KEY = 8  # `local` is no secret


class OpenAITeacher:
    """`model` as the server knows it. Retries are the asker's: the client makes none of its own. `lane` is held while the
    server has a request: that is made before, and its reply is read afterwards. `hedge_s`: what is not there after so long is
    asked for once more; the tokens of both count, for both may be billed."""

    keeper = None
    at_once = 0

    def __init__(
        self,
        model: str,
        *,
        base_url: str,
        key: str,
        licence: str,
        timeout_s: float = 120.0,
        identity: str = "",
        logprobs: bool = False,
        lane: AbstractAsyncContextManager[object] | None = None,
        hedge_s: float = 0.0,
    ) -> None:
        import httpx
        from openai import AsyncOpenAI

        from workbench.teachers.wire import Wire

        self.model = identity or model
        self.licence = licence
        self._served = model
        self.schemas_refused = False
        self._logprobs = logprobs
        self._where = base_url or "api.openai.com"
        self._key = key
        self._wire = Wire(timeout_s=timeout_s, lane=lane, hedge_s=hedge_s)
        self.client = AsyncOpenAI(
            base_url=base_url or None, api_key=key, timeout=timeout_s, max_retries=0, http_client=self._wire
        )
        self._url = self.client.base_url.join("chat/completions")
        said = {**self.client.auth_headers, **self.client.default_headers}
        self._headers = httpx.Headers(self._wire.headers)
        self._headers.update({name: told for name, told in said.items() if isinstance(told, str)})
        self._extensions = {"timeout": httpx.Timeout(timeout_s).as_dict()}

    async def prepare(self) -> None:
        """Nothing: the server is up or not."""

    async def complete(self, request: Request, **own: Any) -> Reply:
        """`own`: fields of the request's body that only this server knows."""
        import aiohttp
        import httpx
        import openai

        from workbench.teachers.wire import TWICE

        body = self.body(request) | own
        try:
            try:
                answer, response = await self._ask(body)
            except openai.APIStatusError as error:
                if error.status_code != HTTPStatus.BAD_REQUEST or FORMAT not in body:
                    raise
                # no schemas at all here, or not of this form: the validators see to it
                answer, response = await self._ask(self.body(request, schema=False) | own)
                self.schemas_refused = True
        except TimeoutError:
            raise self._late() from None
        except (openai.APIError, httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            raise self.told(error, request.top_logprobs) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TeacherError(f"the reply is not JSON: {error}", kind="bad_reply") from None
        except ValueError as error:
            raise TeacherError(
                f"{self._where} cannot be asked: {error}", "check teacher.base_url", kind="refused", fatal=True
            ) from None
        reply = reply_of(answer, response.elapsed.total_seconds(), request.top_logprobs)
        if not response.extensions.get(TWICE):
            return reply
        return reply.model_copy(update={"usage": Usage(**{name: 2 * count for name, count in reply.usage})})

    def body(self, request: Request, *, schema: bool = True) -> dict[str, Any]:
        """What `chat.completions.create` posts, without its walks through the types of every message."""
        body: dict[str, Any] = {
            "model": self._served,
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
        }
        if schema and request.json_schema is not None and not self.schemas_refused:
            body |= _format(request.json_schema)
        if self._logprobs:
            body["logprobs"] = True
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    async def _ask(self, body: dict[str, Any]) -> tuple[Any, Any]:
        """The chat completion, and the response that it came in."""
        import httpx
        import openai

        content = json.dumps(body).encode()
        response = await self._wire.exchange(
            httpx.Request("POST", self._url, headers=self._headers, content=content, extensions=self._extensions)
        )
        if not response.is_success:
            raise openai.APIStatusError(_said(response), response=response, body=None)
        return json.loads(response.content, object_hook=lambda fields: SimpleNamespace(**fields)), response

    def told(self, error: Exception, top_logprobs: int = 0) -> TeacherError:
        """What went wrong on the way to the server, or what the server said, as ours: what broke, whether to try again, what to
        do. `top_logprobs` were asked for."""
        import httpx
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._refused(error, top_logprobs)
        where, cause = self._where, error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        # a refused connection is a `ConnectTimeout` to the transport
        if isinstance(cause, httpx.TimeoutException) and not isinstance(cause, httpx.ConnectTimeout):
            return self._late()
        if isinstance(cause, httpx.TransportError | OSError) or cause is not error:
            return TeacherError(f"{where} cannot be reached", "is the server up, and the network?", kind="network")
        return TeacherError(f"{where} answered nonsense: {self.without_key(str(error))[:200]}", kind="bad_reply")

    def _refused(self, error: Any, top_logprobs: int) -> TeacherError:
        """A status that is no success (`openai.APIStatusError`)."""
        where, status = self._where, error.status_code
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return TeacherError(
                f"{where} refused the API key (HTTP {status})",
                "set the key in the environment variable that teacher.key_env names",
                kind="auth",
                fatal=True,
            )
        if status in (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY):
            return TeacherError(
                f"{where} refused the request: {self.without_key(str(error))[:300]}",
                "check teacher.model and teacher.base_url"
                + (f"; does it tell {top_logprobs} log-probabilities (teacher.top_logprobs)?" if top_logprobs else ""),
                kind="refused",
                fatal=status == HTTPStatus.NOT_FOUND,
            )
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return TeacherError(
                f"{where} asks to slow down (HTTP 429)",
                "lower it with --set runtime.concurrency=2; the same command goes on where it was",
                kind="rate",
                wait_s=_seconds(error.response.headers.get("retry-after", "")),
            )
        wait_s = _seconds(error.response.headers.get("retry-after", ""))
        return TeacherError(f"{where} failed (HTTP {status})", "try again later", kind="server", wait_s=wait_s)

    def _late(self) -> TeacherError:
        return TeacherError(f"{self._where} did not answer in time", "raise runtime.timeout_s", kind="timeout")

    def without_key(self, text: str) -> str:
        """What a server says of a refused request may quote the key."""
        return redact(text.replace(self._key, "[redacted]") if len(self._key) >= SHORTEST_KEY else text)

    async def aclose(self) -> None:
        await self.client.close()


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    """Not `strict`: that wants every property required, and a task's optional arguments are not."""
    wanted = {"name": "answer", "schema": schema, "strict": False}
    return {FORMAT: {"type": "json_schema", "json_schema": wanted}}


def _said(response: Any) -> str:
    """Of a refusal what JSON says in it, and not how: a key may be escaped there."""
    try:
        said = response.json()
    except ValueError:
        said = response.text
    return f"Error code: {response.status_code} - {said}"


def reply_of(answer: Any, seconds: float, top_logprobs: int = 0) -> Reply:
    """A chat completion as a Reply, with so many log-probabilities a place. Raises TeacherError where it holds no text, or is
    none."""
    try:
        return _read(answer, seconds, top_logprobs)
    except (AttributeError, TypeError, LookupError, ValueError) as error:
        raise TeacherError(f"the reply is no chat completion: {error!r}", kind="bad_reply") from None


def _read(answer: Any, seconds: float, top_logprobs: int) -> Reply:
    choices: Any = getattr(answer, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        raise TeacherError("the reply holds no choices", kind="bad_reply")
    if getattr(message, "refusal", None):
        return Reply(text="", finish="refused", seconds=seconds)
    cut = getattr(choices[0], "finish_reason", None) == "length"
    content = getattr(message, "content", None) or ""  # some servers leave out what there is not
    # where a model spent all its tokens on thinking, the nothing it said was paid for: it counts, and is not asked again
    if not content and not cut:
        raise TeacherError("the reply is empty", kind="bad_reply")
    if not isinstance(content, str):
        raise TeacherError("the reply is no text", kind="bad_reply")
    usage = getattr(answer, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text=writable(content),
        finish="length" if cut else "stop",
        usage=Usage(
            prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
            completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
            cached_tokens=getattr(details, "cached_tokens", 0) or 0,
        ),
        seconds=seconds,
        logprob=_mean_logprob(choices[0]),
        top_logprobs=_top_logprobs(choices[0], top_logprobs) if top_logprobs else (),
    )


def _mean_logprob(choice: Any) -> float | None:
    """Of the tokens written, in nats; None where the server does not tell."""
    content = getattr(getattr(choice, "logprobs", None), "content", None) or []
    told = [token.logprob for token in content if isinstance(getattr(token, "logprob", None), int | float)]
    return fmean(told) if told else None


def _top_logprobs(choice: Any, most: int) -> tuple[TokenLogprobs, ...]:
    """The `most` likeliest at each place, and the one written; none where the server does not tell, or tells of one place no
    number. What it lacks, or gives an impossible token, is no reason to lose a reply that was paid for."""
    content = getattr(getattr(choice, "logprobs", None), "content", None) or []
    if not any(getattr(place, "top_logprobs", None) for place in content):
        return ()
    told = []
    for place in content:
        known: dict[str, float] = {}
        for entry in (*(getattr(place, "top_logprobs", None) or [])[:most], place):
            logprob = getattr(entry, "logprob", None)
            if isinstance(logprob, int | float) and math.isfinite(logprob):
                piece = _piece(entry)
                known[piece] = max(known.get(piece, -math.inf), round(logprob, 4))
        told.append(TokenLogprobs(token=_piece(place), top=sorted(known.items(), key=lambda each: -each[1])))
    return tuple(told) if all(each.top for each in told) else ()


def _piece(entry: Any) -> str:
    """Its bytes: a token may be a part of a character."""
    own = getattr(entry, "bytes", None)
    return (bytes(own) if own is not None else writable(str(entry.token)).encode()).decode("latin-1")


def _seconds(header: str) -> float:
    """Of a Retry-After header: a number, or the date until when; 0 where it is neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        until = parsedate(header)
    try:
        return max(0.0, calendar.timegm(until) - time.time()) if until else 0.0
    except (ValueError, OverflowError):  # no year that there is
        return 0.0


def key_from(name: str) -> str:
    """The API key in the environment variable `name`. Raises TeacherError where it is not set."""
    key = os.environ.get(name, "")
    if not key:
        raise TeacherError(
            f"the environment variable {name} holds no API key",
            f"export {name}=..., or name another with --set teacher.key_env=NAME",
            kind="auth",
            fatal=True,
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise TeacherError(
            f"the API key in {name} holds a character that no key has",
            "copy it again; a quote or a blank may have come along",
            kind="auth",
            fatal=True,
        )
    return key
