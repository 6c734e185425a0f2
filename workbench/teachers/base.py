"""The seam: a teacher answers one request. Its fake for tests is `scripted.Scripted`."""

from typing import Protocol

from workbench.ledger import Paid
from workbench.types import Reply, Request


class Keeper(Protocol):
    """Brings replies into the ledger: `put` gives the reply that stands, once it is on the disk. Raises StoreError."""

    async def put(self, call: Paid) -> Reply: ...


class Teacher(Protocol):
    """`model` is its identity in the ledger: two teachers with one name are taken for one.

    `complete` raises TeacherError, of the kind that tells whether trying again can help.
    """

    model: str
    licence: str
    at_once: int  # requests that it is best kept busy with; 0: no more than `runtime.concurrency`

    @property
    def keeper(self) -> Keeper | None:
        """Where its replies reach the ledger though this process is killed; None: who asks sees to it."""

    async def prepare(self) -> None:
        """What has to be done once on this machine, before a budget's minutes begin."""

    async def complete(self, request: Request) -> Reply: ...

    async def aclose(self) -> None: ...
