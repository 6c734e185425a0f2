"""The seam: a teacher answers one request. Its fake for tests is `scripted.Scripted`."""

from typing import Protocol

from workbench.types import Reply, Request


class Teacher(Protocol):
    """`model` is its identity in the ledger: two teachers with one name are taken for one.

    `complete` raises TeacherError, of the kind that tells whether trying again can help.
    """

    model: str
    licence: str
    records: bool  # whether a reply is in the ledger when `complete` returns; else who asks sees to it
    at_once: int  # requests that it is best kept busy with; 0: no more than `runtime.concurrency`

    async def prepare(self) -> None:
        """What has to be done once on this machine, before a budget's minutes begin."""

    async def complete(self, request: Request) -> Reply: ...

    async def aclose(self) -> None: ...
