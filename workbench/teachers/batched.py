"""OpenAI's Batch API: many requests in one file, answered within a day, at half the price.

Requests that wait together go out as one batch. Each batch is written down before it is sent (`batches/` beside the ledger):
a run that comes after a kill waits for its batches, takes what they answered to the ledger, and sends none of it again.

Not guaranteed: a server that forgets a batch's metadata and was killed upon between taking the batch and naming it may be
asked the same batch twice.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from workbench.config import Runtime
from workbench.digest import digest
from workbench.errors import TeacherError
from workbench.ledger import Ledger, Paid
from workbench.teachers.api import OpenAITeacher, reply_of
from workbench.types import Reply, Request

GATHER_S = 1.0  # what comes this soon after the first one goes out with it
AT_ONCE = 5_000  # requests of a batch, at most; OpenAI takes 50,000
ENDED = ("completed", "failed", "expired", "cancelled")
KINDS = {401: "auth", 403: "auth", 408: "timeout", 429: "rate"}


class Asked(NamedTuple):
    """One request of a batch: its name in the ledger, and itself."""

    key: str
    request: Request


class BatchTeacher:
    """Raises what `OpenAITeacher` raises; where a batch ends without an answer to a request, `kind="server"`."""

    records = True
    at_once = AT_ONCE

    def __init__(self, api: OpenAITeacher, runtime: Runtime, ledger: Ledger) -> None:
        self.model = api.model
        self.licence = api.licence
        self._api = api
        self._ledger = ledger
        self._poll_s = runtime.batch_poll_s
        self._folder = ledger.path.parent / "batches" / digest(api.model)[:8]
        self._waiting: dict[str, tuple[Request, asyncio.Future[Reply]]] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Waits for the batches of runs that are gone, and takes what they answered to the ledger."""
        import openai

        try:
            await self._finish_earlier()
        except openai.APIError as error:
            raise self._api.told(error) from None

    async def _finish_earlier(self) -> None:
        for file in sorted(self._folder.glob("*.jsonl")):
            asked = [Asked(line["key"], Request.model_validate(line["request"])) for line in _lines(file.read_text())]
            name = file.with_suffix(".id")
            known = name.read_text() if name.is_file() else await self._sent_as(file.stem)
            if known:
                print(f"waiting for {known}, which a stopped run has under way", file=sys.stderr, flush=True)
                await self._collect(known, asked)
            _forget(file)

    async def complete(self, request: Request) -> Reply:
        key = Ledger.key(self.model, request)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (request, reply)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await reply

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            keys = list(self._waiting)[:AT_ONCE]
            task = asyncio.create_task(self._answer({key: self._waiting.pop(key) for key in keys}))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _answer(self, batch: dict[str, tuple[Request, asyncio.Future[Reply]]]) -> None:
        """One batch, from its file to its replies; who waits for one that did not come is told why."""
        try:
            found = await self._send([Asked(key, request) for key, (request, _) in batch.items()])
        except Exception as error:  # noqa: BLE001 - handed to each who asked
            found = dict.fromkeys(batch, error if isinstance(error, TeacherError) else self._api.told(error))
        missing = TeacherError("the batch ended without an answer to it", "the same command asks again", kind="server")
        for key, (_, reply) in batch.items():
            came = found.get(key, missing)
            if not reply.done():
                reply.set_exception(came) if isinstance(came, Exception) else reply.set_result(came)

    async def _send(self, asked: Sequence[Asked]) -> dict[str, Reply | Exception]:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{digest(sorted(item.key for item in asked))[:16]}.jsonl"
        _write(file, "".join(_line(key=key, request=request.model_dump(mode="json")) for key, request in asked))
        wire = "".join(
            _line(custom_id=key, method="POST", url="/v1/chat/completions", body=self._api.body(request))
            for key, request in asked
        )
        client: Any = self._api.client
        upload = await client.files.create(file=(file.name, wire.encode()), purpose="batch")
        batch = await client.batches.create(
            input_file_id=upload.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"workbench": file.stem},
        )
        _write(file.with_suffix(".id"), batch.id)
        found = await self._collect(batch.id, asked)
        _forget(file)
        return found

    async def _sent_as(self, name: str) -> str:
        """The batch that a killed run had made of a file, where it got that far."""
        async for batch in self._api.client.batches.list(limit=100):
            if (batch.metadata or {}).get("workbench") == name:
                return str(batch.id)
        return ""

    async def _collect(self, name: str, asked: Sequence[Asked]) -> dict[str, Reply | Exception]:
        """Waits for the batch's end; what it answered is in the ledger when this returns."""
        client: Any = self._api.client
        while (batch := await client.batches.retrieve(name)).status not in ENDED:
            await asyncio.sleep(self._poll_s)
        if batch.status == "failed":  # none of it was begun: the file is at fault, the model or the account
            told = str(getattr(batch, "errors", None) or "no reason is given")[:300]
            raise TeacherError(f"the batch failed: {told}", "check teacher.model", kind="refused", fatal=True)
        requests, found, paid = dict(asked), dict[str, Reply | Exception](), list[Paid]()
        for file in filter(None, (batch.output_file_id, getattr(batch, "error_file_id", None))):
            for line in _lines((await client.files.content(file)).text):
                key = line.get("custom_id")
                if key not in requests:
                    continue
                try:
                    reply = self._reply(line, requests[key])
                except TeacherError as error:
                    found[key] = error
                else:
                    paid.append(Paid(key, self.model, requests[key], reply))
        stands = await asyncio.to_thread(self._ledger.put_all, paid)
        return found | {call.key: reply for call, reply in zip(paid, stands, strict=True)}

    def _reply(self, line: dict[str, Any], request: Request) -> Reply:
        answer = line.get("response") or {}
        code = answer.get("status_code", 500)
        if code == 200:
            body = json.loads(json.dumps(answer.get("body")), object_hook=lambda fields: SimpleNamespace(**fields))
            return reply_of(body, 0.0)
        told = json.dumps(answer.get("body") or line.get("error"))[:300]
        if code == 400 and request.json_schema is not None and not self._api.schemas_refused:
            self._api.schemas_refused = True  # the next batch goes without them
            raise TeacherError(f"the batch refused its JSON schema: {told}", kind="bad_reply")
        kind: Any = KINDS.get(code, "refused" if 400 <= code < 500 else "server")
        raise TeacherError(f"in the batch: HTTP {code}: {told}", kind=kind, fatal=kind == "auth")

    async def aclose(self) -> None:
        """What is under way goes on at the server; the next run waits for it."""
        for task in (*self._under_way, *([self._gathering] if self._gathering else [])):
            task.cancel()
        await self._api.aclose()


def _line(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.part")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(file)


def _forget(file: Path) -> None:
    """The file first: an id alone is no batch to wait for."""
    file.unlink(missing_ok=True)
    file.with_suffix(".id").unlink(missing_ok=True)
