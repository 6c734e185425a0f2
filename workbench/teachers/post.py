"""`python -m workbench.teachers.post`: asks one API for a run, and brings each reply into the ledger.

    in   one line of JSON: teacher, runtime, ledger, run; then a line a request: `NAME REQUEST`
    out  a line each, in the order they are done: `NAME reply KEY REPLY` or `NAME teacher ERROR`; and when what was answered is
         on the disk `KEY kept`, with the reply that stands where it is another's, or `KEY store ERROR` (`teacher` where
         it is no fault of the disk's)

When its input ends, by the run's own end or by its kill, it takes what is under way to the ledger, and ends. It is started by
`posted.PostedTeacher`, in a session of its own, and holds the lock that it inherits.
"""

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from workbench.config import Runtime, TeacherConfig
from workbench.errors import StoreError, TeacherError, WorkbenchError
from workbench.ledger import Ledger, Paid, redact
from workbench.teachers.base import Teacher
from workbench.teachers.build import build_teacher
from workbench.teachers.pace import WAIT_AT_MOST_S
from workbench.teachers.posted import LINE_BYTES
from workbench.teachers.recorder import Recorder
from workbench.types import Request

PAUSE_S = 0.5  # at least, after a 429: what waits here does not run into a server that has just had too much


async def serve() -> None:
    asked = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin.buffer)
    order = json.loads(await asked.readline())
    try:
        config, runtime = TeacherConfig.model_validate(order["teacher"]), Runtime.model_validate(order["runtime"])
        lanes = Lanes(runtime.concurrency)
        teacher = build_teacher(config, runtime, lane=lanes)
        ledger = Ledger(Path(order["ledger"]), run=order["run"], sound=True)  # the run has just opened it
    except WorkbenchError as error:
        while (name := (await asked.readline()).partition(b" ")[0]).strip():
            _tell_error(name, error)
        return
    gc.freeze()  # what is loaded by now is not looked through again and again
    with ledger:
        desk, under_way = Desk(teacher, Recorder(ledger), lanes), set[asyncio.Task[None]]()
        while (line := await asked.readline()).endswith(b"\n"):  # half a line: the run was killed while it wrote
            name, _, said = line.partition(b" ")
            task = asyncio.create_task(desk.one(name, Request.model_validate_json(said)))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        lanes.closed = True
        await asyncio.gather(*under_way, return_exceptions=True)
        await teacher.aclose()


class Lanes:
    """Around each request, while the server has it: so many at a time; what the run hands over beyond that waits here, ready to
    be sent. `closed`: the run is gone, and what still waits is not sent any more; nor is it after an error that nothing can
    mend (`broken`)."""

    def __init__(self, most: int) -> None:
        self._room = asyncio.Semaphore(most)
        self.closed = False
        self.wait_until = 0.0  # the server asks to be left alone
        self.broken: TeacherError | None = None

    async def __aenter__(self) -> Self:
        await self._room.acquire()
        try:
            while (wait := self.wait_until - time.monotonic()) > 0 and not self.closed:
                await asyncio.sleep(min(wait, 1.0))
            if self.closed:
                raise TeacherError("the run is gone", kind="budget")
            if self.broken is not None:
                raise self.broken
        except BaseException:
            self._room.release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.release()

    def warned(self, error: TeacherError) -> None:
        """A server had too much, or is not to be asked again."""
        pause = min(max(error.wait_s, PAUSE_S if error.kind == "rate" else 0.0), WAIT_AT_MOST_S)
        self.wait_until = max(self.wait_until, time.monotonic() + pause)
        self.broken = error if error.fatal else self.broken


class Desk:
    """Asks, tells the run what came, and what is on the disk."""

    def __init__(self, teacher: Teacher, recorder: Recorder, lanes: Lanes) -> None:
        self.teacher, self.recorder, self.lanes = teacher, recorder, lanes

    async def one(self, name: bytes, request: Request) -> None:
        """`name` is what the run knows it by: the request's own until it is answered, then its key in the ledger."""
        try:
            reply = await self.teacher.complete(request)
            key = Ledger.key(self.teacher.model, request)
            _tell(name, b"reply", f"{key} {reply.model_dump_json()}")
            name = key.encode()
            stands = await self.recorder.put(Paid(key, self.teacher.model, request, reply))
            _tell(name, b"kept", "" if stands == reply else stands.model_dump_json())
        except WorkbenchError as error:
            if isinstance(error, TeacherError):
                self.lanes.warned(error)
            _tell_error(name, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            told = f"{self.teacher.model}: {redact(repr(error))}"
            _tell_error(name, TeacherError(told, kind="server", fatal=True))


def _tell_error(name: bytes, error: WorkbenchError) -> None:
    told: dict[str, object] = {"message": str(error), "hint": error.hint}
    if isinstance(error, StoreError):
        return _tell(name, b"store", json.dumps(told))
    known = error if isinstance(error, TeacherError) else TeacherError(str(error), kind="refused", fatal=True)
    _tell(name, b"teacher", json.dumps(told | {"kind": known.kind, "fatal": known.fatal, "wait_s": known.wait_s}))


def _tell(name: bytes, kind: bytes, said: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the run is gone: what counts is in the ledger
        os.write(1, b"%s %s %s\n" % (name, kind, said.encode()))


if __name__ == "__main__":
    asyncio.run(serve())
