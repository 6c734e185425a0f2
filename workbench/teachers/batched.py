"""OpenAI's Batch API: many requests in one file, answered within a day, at half the price.

Requests that wait together go out as one batch. Each batch is written down before it is sent (`batches/` beside the ledger):
a run that comes after a kill waits for its batches, takes what they answered to the ledger, and sends none of it again. A
server that fails while a batch is waited for is asked again; only a batch that never began is given up.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from workbench.config import Runtime
from workbench.errors import TeacherError
from workbench.ledger import Ledger, Paid
from workbench.teachers.api import OpenAITeacher, reply_of
from workbench.teachers.posted import batches_of, lock_file, wait_for_earlier
from workbench.types import Reply, Request

T = TypeVar("T")
GATHER_S = 1.0  # what comes this soon after the first one goes out with it
MOST_S = 26 * 3600.0  # that a batch is waited for; the server has a day
ENDED = ("completed", "failed", "expired", "cancelled")
KINDS = {401: "auth", 403: "auth", 408: "timeout", 429: "rate"}


class Asked(NamedTuple):
    """A batch as it was written down: its file, and its requests by their names in the ledger."""

    file: Path
    requests: dict[str, Request]


class BatchTeacher:
    """Raises what `OpenAITeacher` raises; for a request that a batch ends without an answer to, `kind="server"`."""

    def __init__(self, api: OpenAITeacher, size: int, runtime: Runtime, ledger: Ledger) -> None:
        """`size`: requests of a batch, at most."""
        self.model = api.model
        self.licence = api.licence
        self.keeper = self
        self.at_once = size
        self._api = api
        self._ledger = ledger
        self._poll_s = runtime.batch_poll_s
        self._folder = batches_of(ledger.path, api.model)
        self._waiting: dict[str, tuple[Request, asyncio.Future[Reply]]] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._closed = False

    async def prepare(self) -> None:
        """Waits for what runs that are gone have under way, and takes what their batches answered to the ledger."""
        await wait_for_earlier(lock_file(self._ledger.path, self.model))
        for file in sorted(self._folder.glob("*.jsonl")):
            lines = _lines(file.read_text(encoding="utf-8"))
            asked = Asked(file, {line["key"]: Request.model_validate(line["request"]) for line in lines})
            name = file.with_suffix(".id")
            try:
                known = name.read_text() if name.is_file() else await self._patiently(partial(self._sent_as, file.stem))
                if known:
                    print(f"waiting for {known}, which a stopped run has under way", file=sys.stderr, flush=True)
                    await self._collect(known, asked)
            except TeacherError as error:
                if error.kind != "refused":
                    raise
                print(f"given up: {error}", file=sys.stderr)  # it failed as a whole, or nobody knows it any more
            _forget(file)

    async def complete(self, request: Request) -> Reply:
        if self._closed:
            raise TeacherError(f"{self.model} is not asked any more", kind="network", fatal=True)
        key = Ledger.key(self.model, request)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (request, reply)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await reply

    async def put(self, call: Paid) -> Reply:
        """A batch is in the ledger before its replies are given out (`_collect`)."""
        return call.reply

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            keys = list(self._waiting)[: self.at_once]
            task = asyncio.create_task(self._answer({key: self._waiting.pop(key) for key in keys}))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer(self, batch: dict[str, tuple[Request, asyncio.Future[Reply]]]) -> None:
        """One batch, from its file to its replies; who waits for one that did not come is told why."""
        asked = Asked(self._folder / f"{uuid4().hex}.jsonl", {key: request for key, (request, _) in batch.items()})
        found: dict[str, Reply | Exception]
        try:
            found = await self._collect(await self._send(asked), asked)
            _forget(asked.file)
        except Exception as error:  # noqa: BLE001 - handed to each who asked
            found = dict.fromkeys(batch, error)
            if (
                isinstance(error, TeacherError) and error.kind == "refused"
            ):  # else it is paid for, and waits for the next run
                _forget(asked.file)
        missing = TeacherError("the batch ended without an answer to it", "the same command asks again", kind="server")
        for key, (_, reply) in batch.items():
            came = found.get(key, missing)
            if reply.done():
                continue
            if isinstance(came, Exception):
                reply.set_exception(came)
            else:
                reply.set_result(came)

    async def _send(self, asked: Asked) -> str:
        """The batch's name, at the server and on the disk."""
        import openai

        self._folder.mkdir(parents=True, exist_ok=True)
        _write(asked.file, _text({"key": k, "request": r.model_dump(mode="json")} for k, r in asked.requests.items()))
        wire = _text(
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": self._api.body(request)}
            for key, request in asked.requests.items()
        )
        client: Any = self._api.client
        try:
            upload = await client.files.create(file=(asked.file.name, wire.encode()), purpose="batch")
        except openai.APIError as error:
            _forget(asked.file)
            raise self._api.told(error) from None
        try:
            batch = await client.batches.create(
                input_file_id=upload.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"workbench": asked.file.stem},
            )
            name = str(batch.id)
        except openai.APIError as error:  # the server may have taken it all the same
            name = "" if _final(error) else await self._patiently(partial(self._sent_as, asked.file.stem))
            if not name:
                _forget(asked.file)
                raise self._api.told(error) from None
        _write(asked.file.with_suffix(".id"), name)
        return name

    async def _sent_as(self, stem: str) -> str:
        """The batch that was made of a file, where it got that far."""
        async for batch in self._api.client.batches.list(limit=100):
            if (batch.metadata or {}).get("workbench") == stem:
                return str(batch.id)
        return ""

    async def _collect(self, name: str, asked: Asked) -> dict[str, Reply | Exception]:
        """Waits for the batch's end; what it answered is in the ledger when this returns."""
        client: Any = self._api.client
        while (batch := await self._patiently(partial(client.batches.retrieve, name))).status not in ENDED:
            await asyncio.sleep(self._poll_s)
        if batch.status == "failed":  # none of it was begun: the file is at fault, the model, or the account's limits
            told = self._api.without_key(str(getattr(batch, "errors", None) or "no reason is given"))[:300]
            hint = "check teacher.model; where too much is in the queue, a smaller --set teacher.batch helps"
            raise TeacherError(f"the batch {name} failed: {told}", hint, kind="refused", fatal=True)
        answers: dict[str, dict[str, Any]] = {}
        for file in filter(None, (batch.output_file_id, getattr(batch, "error_file_id", None))):
            content = await self._patiently(partial(client.files.content, file))
            answers |= {line.get("custom_id", ""): line.get("response") or {} for line in _lines(content.text)}
        codes = {answer.get("status_code") for answer in answers.values()}
        schemas = 400 in codes and 200 not in codes and any(r.json_schema for r in asked.requests.values())
        again = schemas and not self._api.schemas_refused  # a server without schemas: the next batch goes without them
        self._api.schemas_refused |= again
        found: dict[str, Reply | Exception] = {}
        for key in answers.keys() & asked.requests.keys():
            try:
                found[key] = self._reply(answers[key], again, asked.requests[key].top_logprobs)
            except TeacherError as error:
                found[key] = error
        paid = [Paid(k, self.model, asked.requests[k], r) for k, r in found.items() if isinstance(r, Reply)]
        stands = await asyncio.to_thread(self._ledger.put_all, paid)
        return found | {call.key: reply for call, reply in zip(paid, stands, strict=True)}

    def _reply(self, answer: dict[str, Any], without_schema: bool, top_logprobs: int) -> Reply:
        """Of one line. `without_schema`: what was refused is worth asking again."""
        code = answer.get("status_code", 500)
        body = json.dumps(answer.get("body"))
        if code != 200:
            kind: Any = KINDS.get(code, "refused" if 400 <= code < 500 else "server")
            kind = "bad_reply" if code == 400 and without_schema else kind
            told = self._api.without_key(body)[:300]
            raise TeacherError(f"in the batch: HTTP {code}: {told}", kind=kind, fatal=kind == "auth")
        return reply_of(json.loads(body, object_hook=lambda fields: SimpleNamespace(**fields)), 0.0, top_logprobs)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Again until the server tells: what is paid for is not given up because of a poll that failed."""
        import openai

        began, told = time.monotonic(), False
        while True:
            try:
                return await ask()
            except openai.APIError as error:
                if _final(error) or time.monotonic() - began > MOST_S:
                    raise self._api.told(error) from None
                if not told:
                    told = True
                    print(f"{self._api.told(error)}; its batches are waited for", file=sys.stderr, flush=True)
                await asyncio.sleep(self._poll_s)

    async def aclose(self) -> None:
        """What is under way goes on at the server; the next run waits for it."""
        self._closed = True
        tasks = [*self._under_way, *([self._gathering] if self._gathering else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._api.aclose()


def _final(error: Exception) -> bool:
    """Whether the same question will be answered the same: not so for a server that is down, late or busy."""
    import openai

    code = error.status_code if isinstance(error, openai.APIStatusError) else 0
    return code == 501 or (400 <= code < 500 and code not in (408, 409, 429))


def _text(lines: Any) -> str:
    """In ASCII: some of what ends a line in Unicode is no end of a line in JSON."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def _lines(text: str) -> list[dict[str, Any]]:
    """A line that is no JSON object is passed over: the request that it answers is missing then, and told so."""
    found = []
    for line in text.split("\n"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.part")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)


def _forget(file: Path) -> None:
    """The file first: a name alone is no batch to wait for."""
    file.unlink(missing_ok=True)
    file.with_suffix(".id").unlink(missing_ok=True)
