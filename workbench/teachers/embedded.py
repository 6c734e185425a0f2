"""A GGUF file as a teacher: llama.cpp's own server on this machine, asked like any other server."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from workbench.edge.native import runtime_version
from workbench.edge.runtime import LlamaServer
from workbench.machine import temporary_folder
from workbench.measured import fastest
from workbench.teachers.api import OpenAITeacher
from workbench.teachers.slots import Slots
from workbench.types import Reply, Request

if TYPE_CHECKING:
    import httpx

SLOTS = (2, 4, 8, 16)
WORDS = 24  # of a request that is timed, and tokens that are written to it
CONTEXT_TOKENS = 4096  # a slot's: the few-shot block, the input and the answer


class EmbeddedTeacher:
    """The server starts with the first question: a run that finds all in the ledger never loads the model. `slots` 0: as many
    as answer most requests, measured the first time on a machine (half a minute for a model of 1.5 billion on two cores)."""

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
        self._starting = asyncio.Lock()

    async def prepare(self) -> None:
        """Nothing: a GGUF is read as it is."""

    async def complete(self, request: Request) -> Reply:
        async with self._starting:
            if self._client is None:
                await self._try_to_start()
        assert self._client is not None and self._server is not None and self._slots is not None
        self._server.check()
        async with self._slots.taken(request.messages[:-1]) as slot:
            return await self._client.complete(request, id_slot=slot)

    async def _try_to_start(self) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            await asyncio.to_thread(self._start)
        except Exception as error:
            self._broken = error  # found out once, for all who ask
            raise

    def _start(self) -> None:
        import httpx

        path, slots, threads = self._shape
        if not slots:
            what = f"slots for {self.model} in llama.cpp {runtime_version()}"
            slots = fastest(what, SLOTS, lambda count: answered(path, count, threads))
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


def answered(path: Path, slots: int, threads: int) -> float:
    """Short requests that so many slots answer in a second, each with a text of its own, once all weights were touched."""
    import httpx

    with (
        LlamaServer(path, slots=slots, ctx_per_slot=256, threads=threads) as server,
        httpx.Client(base_url=server.address, timeout=600) as client,
        ThreadPoolExecutor(slots) as pool,
    ):

        def ask(number: int) -> None:
            body = {"prompt": f"{number} " * WORDS, "n_predict": WORDS, "ignore_eos": True, "temperature": 0}
            client.post("/completion", json=body).raise_for_status()

        ask(1)
        began = time.monotonic()
        list(pool.map(ask, range(2, 2 + slots)))
        return slots / (time.monotonic() - began)
