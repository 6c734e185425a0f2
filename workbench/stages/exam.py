"""Asking a GGUF file through llama.cpp's own server and the plain OpenAI chat API: what ships is what is asked."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from workbench.config import Runtime
from workbench.edge.runtime import LlamaServer
from workbench.errors import EdgeError
from workbench.types import Message

Chat = Sequence[Message]


class Answer(NamedTuple):
    text: str
    prompt_tokens: int


def user(prompt: str) -> Chat:
    """The chat a student reads: one user message."""
    return (Message(role="user", content=prompt),)


def ask_all(gguf: Path, chats: Sequence[Chat], runtime: Runtime, *, max_tokens: int, context: int) -> list[Answer]:
    """Greedy answers, in the chats' order. `context` is in tokens, prompt and answer together. Raises EdgeError.

    One request at a time: batching changes the last bits of the logits, and an answer is to be the one a device gives.
    """
    with _served(gguf, runtime, context) as ask:
        return [ask(chat, max_tokens) for chat in chats]


def seconds_alone(
    gguf: Path, chats: Sequence[Chat], warm: Sequence[Chat], runtime: Runtime, *, max_tokens: int, context: int
) -> list[float]:
    """Seconds for each chat, one at a time on an idle server. Before each, its partner in `warm` is asked, not timed:
    it brings the shared prefix into the server's cache, as it would be in service. Raises EdgeError."""
    taken = []
    with _served(gguf, runtime, context) as ask:
        for chat, before in zip(chats, warm, strict=True):
            ask(before, 1)
            start = monotonic()
            ask(chat, max_tokens)
            taken.append(monotonic() - start)
    return taken


@contextmanager
def _served(gguf: Path, runtime: Runtime, context: int) -> Iterator[Callable[[Chat, int], Answer]]:
    """The file in llama.cpp's own server with one slot; gives what asks it: (chat, most tokens of the answer) -> answer."""
    from openai import OpenAI, OpenAIError

    with (
        LlamaServer(gguf, slots=1, ctx_per_slot=context, threads=runtime.threads or os.cpu_count() or 1) as server,
        OpenAI(base_url=server.base_url, api_key="local", timeout=600, max_retries=0) as client,
    ):

        def ask(chat: Chat, max_tokens: int) -> Answer:
            try:
                reply = client.chat.completions.create(
                    model=server.alias,
                    messages=[{"role": m.role, "content": m.content} for m in chat],  # type: ignore[misc]
                    temperature=0,
                    max_tokens=max_tokens,
                )
            except OpenAIError as error:
                raise _told(server, error) from error
            return Answer(reply.choices[0].message.content or "", reply.usage.prompt_tokens if reply.usage else 0)

        yield ask


def _told(server: LlamaServer, error: Exception) -> EdgeError:
    """Why there is no answer: the server's own end, if it has ended, else what it said."""
    server.check()
    return EdgeError(
        f"llama.cpp gave no answer for {server.model.name}: {error}",
        "an input that is longer than the context cannot be answered; shorten it",
    )
