"""A GGUF file as a teacher: llama.cpp's own server on this machine, asked like any other server."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from workbench.edge.runtime import LlamaServer
from workbench.machine import temporary_folder
from workbench.teachers.api import OpenAITeacher
from workbench.teachers.slots import Slots
from workbench.types import Reply, Request

if TYPE_CHECKING:
    import httpx

CONTEXT_TOKENS = 4096  # a slot's: the few-shot block, the input and the answer


class EmbeddedTeacher:
    """The server starts with the first question: a run that finds all in the ledger never loads the model."""

    keeper = None
    at_once = 0

    def __init__(self, path: Path, *, model: str, licence: str, slots: int, threads: int, timeout_s: float) -> None:
        self.model = model
        self.licence = licence
        self._timeout_s = timeout_s
        self._shape = (path, slots, threads)
        self._open = ExitStack()
        self._server: LlamaServer | None = None
        self._client: OpenAITeacher | None = None
        self._http: httpx.AsyncClient | None = None
        self._slots: Slots | None = None
        self._broken: Exception | None = None

    async def prepare(self) -> None:
        """Nothing: a GGUF is read as it is."""

    async def complete(self, request: Request) -> Reply:
        if self._broken is not None:
            raise self._broken
        if self._client is None:
            try:
                self._start()
            except Exception as error:
                self._broken = error  # found out once, for all who ask
                raise
        assert self._client is not None and self._server is not None and self._slots is not None
        self._server.check()
        async with self._slots.taken(request.messages[:-1]) as slot:
            return await self._client.complete(request, id_slot=slot)

    def _start(self) -> None:
        import httpx

        path, slots, threads = self._shape
        states = self._open.enter_context(temporary_folder("workbench-slots-", Path(gettempdir())))
        self._server = self._open.enter_context(
            LlamaServer(path, slots=slots, ctx_per_slot=CONTEXT_TOKENS, threads=threads, states=states)
        )
        self._http = httpx.AsyncClient(base_url=self._server.address, timeout=self._timeout_s)
        self._slots = Slots(self._http, slots)
        self._client = OpenAITeacher(
            self._server.alias,
            base_url=self._server.base_url,
            key="local",
            licence=self.licence,
            timeout_s=self._timeout_s,
            logprobs=True,
        )

    async def aclose(self) -> None:
        if self._client is not None and self._http is not None:
            await self._client.aclose()
            await self._http.aclose()
            self._client = None
        self._open.close()
