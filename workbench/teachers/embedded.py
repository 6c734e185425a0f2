"""A GGUF file as a teacher: llama.cpp's own server on this machine, asked like any other server."""

from contextlib import ExitStack
from pathlib import Path

from workbench.edge.runtime import LlamaServer
from workbench.teachers.api import OpenAITeacher
from workbench.types import Reply, Request

CONTEXT_TOKENS = 4096  # a slot's: the few-shot block, the input and the answer


class EmbeddedTeacher:
    """The server starts with the first question: a run that finds all in the ledger never loads the model."""

    def __init__(self, path: Path, *, model: str, licence: str, slots: int, threads: int, timeout_s: float) -> None:
        self.model = model
        self.licence = licence
        self._timeout_s = timeout_s
        self._server = LlamaServer(path, slots=slots, ctx_per_slot=CONTEXT_TOKENS, threads=threads)
        self._open = ExitStack()
        self._client: OpenAITeacher | None = None

    async def complete(self, request: Request) -> Reply:
        if self._client is None:
            server = self._open.enter_context(self._server)
            self._client = OpenAITeacher(
                server.alias, base_url=server.base_url, key="local", licence=self.licence, timeout_s=self._timeout_s
            )
        self._server.check()
        return await self._client.complete(request)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        self._open.close()
