"""Replies into the ledger, many in one commit."""

import asyncio
import time

from workbench.ledger import Ledger, Paid
from workbench.types import Reply

BETWEEN_S = 0.05  # two commits: the disk, and the processor's way to it, are shared by what comes meanwhile


class Recorder:
    """As many in one commit as came since the last one: the disk is waited for once for all of them, and beside the event
    loop."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._waiting: list[tuple[Paid, asyncio.Future[Reply]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._last = 0.0  # commit

    async def put(self, call: Paid) -> Reply:
        """The reply that stands, once it is on the disk."""
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        while self._waiting:
            batch: list[tuple[Paid, asyncio.Future[Reply]]] = []
            try:
                if (early := self._last + BETWEEN_S - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                batch, self._waiting = self._waiting, []
                replies = await asyncio.to_thread(self.ledger.put_all, [call for call, _ in batch])
                self._last = time.monotonic()
            except asyncio.CancelledError:  # the run ends: all is paid for, whether the thread has begun or not
                self.ledger.put_all([call for call, _ in (*batch, *self._waiting)])
                raise
            except Exception as error:  # noqa: BLE001 - goes to all who wait for it
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), reply in zip(batch, replies, strict=True):
                    if not done.done():
                        done.set_result(reply)
