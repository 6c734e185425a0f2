"""Any OpenAI-compatible server, through `openai`'s async client. The key comes from a named environment variable."""

import asyncio
import json
import math
import os
import time
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from workbench.errors import TeacherError
from workbench.ledger import redact, writable
from workbench.types import Reply, Request, TokenLogprobs, Usage

SHORTEST_KEY = 8  # `local` is no secret


class OpenAITeacher:
    """`model` as the server knows it. Retries are the asker's: the client makes none of its own."""

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
    ) -> None:
        from openai import AsyncOpenAI

        from workbench.teachers.wire import Wire

        self.model = identity or model
        self.licence = licence
        self._served = model
        self.schemas_refused = False
        self._logprobs = logprobs
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._key = key
        self._options: Any = {"max_retries": 0, "timeout": timeout_s, "headers": {}, "params": {}}
        self.client = AsyncOpenAI(
            base_url=base_url or None, api_key=key, timeout=timeout_s, max_retries=0, http_client=Wire()
        )

    async def prepare(self) -> None:
        """Nothing: the server is up or not."""

    async def complete(self, request: Request, **own: Any) -> Reply:
        """`own`: fields of the request's body that only this server knows."""
        import openai

        start = time.monotonic()
        try:
            try:
                answer = await self._ask(self.body(request) | own)
            except openai.BadRequestError:
                if request.json_schema is None or self.schemas_refused:
                    raise
                # no schemas at all here, or not of this form: the validators see to it
                answer = await self._ask(self.body(request, schema=False) | own)
                self.schemas_refused = True
        except TimeoutError:
            raise self._late() from None
        except openai.APIError as error:
            raise self.told(error, request.top_logprobs) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise TeacherError(f"the reply is not JSON: {error}", kind="bad_reply") from None
        return reply_of(answer, time.monotonic() - start, request.top_logprobs)

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

    async def _ask(self, body: dict[str, Any]) -> Any:
        import httpx

        content = json.dumps(body).encode()
        # the time of the whole: the client's own begins anew with each byte that comes
        async with asyncio.timeout(self._timeout_s):
            answer = await self.client.post(
                "/chat/completions", cast_to=httpx.Response, content=content, options=self._options
            )
        return json.loads(answer.content, object_hook=lambda fields: SimpleNamespace(**fields))

    def told(self, error: Exception, top_logprobs: int = 0) -> TeacherError:
        """The client's exception as ours: what broke, whether to try again, what to do. `top_logprobs` were asked for."""
        import httpx
        import openai

        where = self._base_url or "api.openai.com"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return TeacherError(
                f"{where} refused the API key (HTTP {error.status_code})",
                "set the key in the environment variable that teacher.key_env names",
                kind="auth",
                fatal=True,
            )
        if isinstance(error, openai.NotFoundError | openai.BadRequestError | openai.UnprocessableEntityError):
            text = self.without_key(str(error))[:300]
            return TeacherError(
                f"{where} refused the request: {text}",
                "check teacher.model and teacher.base_url"
                + (f"; does it tell {top_logprobs} log-probabilities (teacher.top_logprobs)?" if top_logprobs else ""),
                kind="refused",
                fatal=isinstance(error, openai.NotFoundError),
            )
        if isinstance(error, openai.RateLimitError):
            return TeacherError(
                f"{where} asks to slow down (HTTP 429)",
                "lower it with --set runtime.concurrency=2; the same command goes on where it was",
                kind="rate",
                wait_s=_seconds(error.response.headers.get("retry-after", "")),
            )
        unconnected = isinstance(
            error.__cause__, httpx.ConnectTimeout
        )  # so the transport calls a refused connection too
        if isinstance(error, openai.APITimeoutError) and not unconnected:
            return self._late()
        if isinstance(error, openai.APIConnectionError):
            return TeacherError(f"{where} cannot be reached", "is the server up, and the network?", kind="network")
        if isinstance(error, openai.APIStatusError):
            return TeacherError(f"{where} failed (HTTP {error.status_code})", "try again later", kind="server")
        return TeacherError(f"{where} answered nonsense: {self.without_key(str(error))[:200]}", kind="bad_reply")

    def _late(self) -> TeacherError:
        where = self._base_url or "api.openai.com"
        return TeacherError(f"{where} did not answer in time", "raise runtime.timeout_s", kind="timeout")

    def without_key(self, text: str) -> str:
        """What a server says of a refused request may quote the key."""
        return redact(text.replace(self._key, "[redacted]") if len(self._key) >= SHORTEST_KEY else text)

    async def aclose(self) -> None:
        await self.client.close()


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    """Not `strict`: that wants every property required, and a task's optional arguments are not."""
    wanted = {"name": "answer", "schema": schema, "strict": False}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


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
    """A Retry-After header in seconds; 0 for a date, which the asker's own waiting serves as well."""
    try:
        return max(0.0, float(header))
    except ValueError:
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
