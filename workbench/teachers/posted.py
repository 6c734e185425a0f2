"""An API asked by a process of its own (`post.py`), which brings each reply into the ledger whatever becomes of this one.

A run that is killed has requests under way. They are paid for; with the run's own process their replies would be lost, and the
next run would send them again. The post outlives the run: it takes what is under way to the ledger, then ends; the next run
waits for that before it looks anything up. And the work of the wire is done on another core than the judging.

Not guaranteed: replies under way when the post itself is killed, or the machine stops.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workbench.config import Runtime, TeacherConfig
from workbench.digest import digest
from workbench.edge import child
from workbench.errors import StoreError, TeacherError
from workbench.ledger import Ledger, Paid
from workbench.teachers.recorder import Recorder
from workbench.types import Reply, Request

AHEAD = 0.5  # of its lanes' worth of requests wait in the post, so that one leaves when another's reply comes
LINE_BYTES = 2**26  # of a request or a reply, at most
GRACE_S = 10.0  # beyond what a request may take, for its reply to reach the disk
TOLD_AFTER_S = 1.0


class PostedTeacher:
    """Raises what `OpenAITeacher` raises, and StoreError where the ledger cannot be written. One request of a kind at a time:
    the asker lets the others wait."""

    at_once = 0

    def __init__(self, config: TeacherConfig, runtime: Runtime, ledger: Ledger, *, model: str) -> None:
        self.model = model
        self.licence = config.licence or "unknown"
        self.keeper = self
        self._order = {
            "teacher": config.model_dump(mode="json", include=set(TeacherConfig.model_fields)),  # no role of a pool
            "runtime": runtime.model_dump(mode="json"),
            "ledger": str(ledger.path.resolve()),
            "run": ledger.run,
        }
        self._most_s = 2 * runtime.timeout_s + GRACE_S  # a server that refuses schemas is asked twice
        self._lock = lock_file(ledger.path, model)
        self._batches = batches_of(ledger.path, model)
        self._log = ledger.path.with_name("post.log")
        self._names = itertools.count()
        self._answered: dict[str, asyncio.Future[bytes]] = {}  # by key: what the post says when it is on the disk
        self._own = Recorder(ledger)
        self._starting = asyncio.Lock()
        self._post: _Post | None = None
        self._closed = False

    async def prepare(self) -> None:
        """Waits until the posts of runs that are gone have brought home what they have under way. Raises TeacherError where
        that is a batch."""
        if list(self._batches.glob("*.jsonl")):
            raise TeacherError(
                f"a stopped run has a batch of {self.model} under way",
                f"go on with --set teacher.batch=SIZE, or give up what it has paid for: remove {self._batches}",
                kind="refused",
                fatal=True,
            )
        await wait_for_earlier(self._lock)

    async def complete(self, request: Request) -> Reply:
        name, reply = b"%d" % next(self._names), asyncio.get_running_loop().create_future()
        async with self._starting:
            if self._closed:
                raise TeacherError(f"{self.model} is not asked any more", kind="network", fatal=True)
            if self._post is None:
                self._post = await _Post.start(self._log, self._lock, self._most_s, self._order)
                self._post.reading = asyncio.create_task(self._read(self._post))
            post = self._post
        post.under_way[name] = reply
        try:
            post.requests.write(b"%s %s\n" % (name, request.model_dump_json().encode()))
            with contextlib.suppress(ConnectionError):  # the post has died: `_read` tells all who wait
                await post.requests.drain()
            found: Reply = await reply
            return found
        finally:
            post.under_way.pop(name, None)

    async def put(self, call: Paid) -> Reply:
        """Waits for the post's word that it is on the disk; a post that died on the way leaves it to this process."""
        try:
            said = await self._answered.pop(call.key)
        except TeacherError:
            return await self._own.put(call)
        return Reply.model_validate_json(said) if said.strip() else call.reply

    async def _read(self, post: "_Post") -> None:
        """Hands out what the post tells, until it ends; then nobody is left waiting."""
        try:
            while line := await post.replies.readline():
                if not line.endswith(b"\n"):
                    raise ValueError(line)
                name, kind, said = line.split(b" ", 2)
                self._hand_out(post, name, kind, said)
        except ValueError:  # half a line, for it was killed while it wrote; or none of ours
            post.process.kill()
        if self._post is post:  # who asks from now on has a new one
            self._post = None
        code = await post.ended()
        told = f"the process that asks {self.model} died ({child.ending(code)}): {child.tail(self._log, 3)}"
        for waiting in post.under_way.values():
            if not waiting.done():
                waiting.set_exception(TeacherError(told, f"{self._log} tells more", kind="network"))
                waiting.exception()  # some nobody asks for any more: no word of that from asyncio

    def _hand_out(self, post: "_Post", name: bytes, kind: bytes, said: bytes) -> None:
        waiting = post.under_way.get(name)
        heard = waiting is not None and not waiting.done()  # else it is brought to the ledger all the same
        if kind == b"reply":
            key, _, said = said.partition(b" ")
            reply, kept = Reply.model_validate_json(said), asyncio.get_running_loop().create_future()
            post.under_way[key] = kept
            if waiting is not None and heard:
                self._answered[key.decode()] = kept
                waiting.set_result(reply)
            return
        error = None if kind == b"kept" else _error(kind, json.loads(said))
        post.under_way.pop(name, None)
        if waiting is not None and heard:
            waiting.set_result(said) if error is None else waiting.set_exception(error)

    async def aclose(self) -> None:
        """Ends the post, once it has brought home what is under way; that is not waited for."""
        self._closed = True
        async with self._starting:
            post, self._post = self._post, None
        if post is not None:
            await post.close()


class _Post:
    """The process, the two pipes to it, and who waits for what it was asked."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", requests: asyncio.StreamWriter, replies: asyncio.StreamReader,
        hearing: asyncio.BaseTransport,
    ) -> None:  # fmt: skip
        self.process, self.requests, self.replies, self._hearing = process, requests, replies, hearing
        self.under_way: dict[bytes, asyncio.Future[Any]] = {}  # by name, then by key
        self.reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, log: Path, lock: Path, most_s: float, order: object) -> "_Post":
        """It holds the lock from its first moment: what it inherits is locked already."""
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
            os.truncate(handle, 0)
            os.pwrite(handle, f"{most_s:g}".encode(), 0)
            with log.open("wb") as errors:
                process = subprocess.Popen(
                    [sys.executable, "-m", "workbench.teachers.post"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, pass_fds=(handle,),
                    env=child.environment(), start_new_session=True,  # the terminal's Ctrl-C is not for it
                )  # fmt: skip
        finally:
            os.close(handle)
        loop, replies = asyncio.get_running_loop(), asyncio.StreamReader(limit=LINE_BYTES)
        hearing, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(replies), process.stdout)
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
        requests = asyncio.StreamWriter(writing, protocol, None, loop)
        requests.write(json.dumps(order).encode() + b"\n")
        return cls(process, requests, replies, hearing)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait)

    async def close(self) -> None:
        """Closed pipes tell it that nobody asks or listens any more. Its end is waited for if it has nothing under way."""
        idle = not self.under_way
        if self.reading is not None:
            self.reading.cancel()
        self.requests.close()
        self._hearing.close()
        await asyncio.sleep(0)  # transports close in the loop's next turn
        if idle:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended(), GRACE_S)


def _error(kind: bytes, said: dict[str, object]) -> TeacherError | StoreError:
    if kind == b"store":
        return StoreError(str(said["message"]), str(said["hint"]))
    return TeacherError(
        str(said["message"]),
        str(said["hint"]),
        kind=said["kind"],  # type: ignore[arg-type]
        fatal=bool(said["fatal"]),
        wait_s=float(str(said["wait_s"])),
    )


def lock_file(ledger: Path, model: str) -> Path:
    """Held by each post of this teacher while it lives; in it, for how many seconds it may have something under way."""
    return ledger.with_name(f"{ledger.name}.post-{digest(model)[:8]}")


def batches_of(ledger: Path, model: str) -> Path:
    """Where the batches of this teacher that are under way are written down (`batched.py`)."""
    return ledger.with_name("batches") / digest(model)[:8]


async def wait_for_posts(ledger: Path) -> None:
    """Until none brings anything into this ledger."""
    for lock in ledger.parent.glob(f"{ledger.name}.post-*"):
        await wait_for_earlier(lock)


async def wait_for_earlier(lock: Path) -> None:
    """Until no post holds the lock, or for as long as one may have something under way."""
    began, told = time.monotonic(), False
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited > float(os.pread(handle, 32, 0) or 0):
                    print("waited in vain for a stopped run's replies; some may be asked for again", file=sys.stderr)
                    return
                if not told and waited > TOLD_AFTER_S:
                    told = True
                    print("waiting for replies that a stopped run has under way", file=sys.stderr, flush=True)
                await asyncio.sleep(0.05)
    finally:
        os.close(handle)
