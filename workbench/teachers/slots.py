"""A few-shot block is read once, whichever of the server's slots needs it.

Reading is what a local teacher's time goes into, and each slot of llama.cpp's server reads the block for itself. So the first
request of a block reads it in one slot, the others of that block wait for it; then that slot's state is saved, and each other
slot restores it in the time a file takes to be read. A block that begins like one already saved starts from that one.
"""

import asyncio
import itertools
import warnings
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from workbench.errors import TeacherError
from workbench.types import Message

if TYPE_CHECKING:
    import httpx

Block = tuple[Message, ...]
KEPT = 48  # saved states; one is 28 KiB a token for a model of 1.5 billion


class Slots:
    """`count` slots of the server that `client` speaks to (its base URL is the server's address)."""

    def __init__(self, client: "httpx.AsyncClient", count: int) -> None:
        self._client = client
        self._held: list[Block] = [()] * count
        self._free = list(range(count))
        self._saved: OrderedDict[Block, str] = OrderedDict()  # the last used one last
        self._reading: set[Block] = set()
        self._changed = asyncio.Condition()
        self._names = itertools.count()

    @asynccontextmanager
    async def taken(self, block: Sequence[Message]) -> AsyncIterator[int]:
        """A slot for one request that begins with `block`; its number is the request's `id_slot`."""
        wanted = tuple(block)
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._free) and wanted not in self._reading)
            slot = max(self._free, key=lambda free: _common(self._held[free], wanted))
            self._free.remove(slot)
            first = wanted not in self._saved
            if first:
                self._reading.add(wanted)
        read = False
        try:
            await self._prepare(slot, wanted)
            yield slot
            read = True
            if first:
                await self._try_to_save(slot, wanted)
        finally:
            async with self._changed:
                self._held[slot] = wanted if read else ()
                self._free.append(slot)
                self._reading.discard(wanted)
                self._changed.notify_all()

    async def _prepare(self, slot: int, wanted: Block) -> None:
        """Restore the saved state that has most of `wanted`, where that is more than the slot holds."""
        best = max(self._saved, key=lambda saved: _common(saved, wanted), default=())
        if _common(best, wanted) > _common(self._held[slot], wanted):
            self._saved.move_to_end(best)
            await self._act(slot, "restore", self._saved[best])

    async def _try_to_save(self, slot: int, block: Block) -> None:
        """What cannot be saved is read again by each slot: slower, and no reason to lose the reply."""
        oldest = next(iter(self._saved)) if len(self._saved) >= KEPT else None
        name = f"{next(self._names)}.bin" if oldest is None else self._saved.pop(oldest)  # its file is written over
        try:
            await self._act(slot, "save", name)
        except TeacherError as error:
            warnings.warn(f"{error} ({error.hint})", stacklevel=2)
        else:
            self._saved[block] = name

    async def _act(self, slot: int, action: str, name: str) -> None:
        import httpx

        try:
            answer = await self._client.post(f"/slots/{slot}", params={"action": action}, json={"filename": name})
        except httpx.HTTPError as error:
            raise TeacherError(f"llama.cpp's server did not {action} a slot: {error!r}", kind="network") from None
        if answer.status_code != httpx.codes.OK:
            raise TeacherError(
                f"llama.cpp's server cannot {action} a slot's state: {answer.text[:200]}",
                "make room where temporary files are kept (TMPDIR)",
                kind="server",
            )


def _common(a: Block, b: Block) -> int:
    """How many messages two blocks begin with alike."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
