"""Asking a GGUF file through llama.cpp's own server and the plain OpenAI chat API: what ships is what is asked."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from workbench.config import Runtime
from workbench.edge.runtime import LlamaServer
from workbench.errors import EdgeError
from workbench.machine import cores
from workbench.types import Message

Chat = Sequence[Message]
STUDENT_CONTEXT = 2048  # tokens of a prompt and its answer
SERVERS = 4  # of one file at once, at most
SERVERS_BYTES = 2**31  # of their weights together, unless one alone has more


class Answer(NamedTuple):
    text: str
    prompt_tokens: int
    ended: bool = True  # by itself, not by the most tokens it may have


def user(prompt: str) -> Chat:
    """The chat a student reads: one user message."""
    return (Message(role="user", content=prompt),)


def words(chat: Chat) -> list[str]:
    """What chats are sorted by, so that those that begin alike are neighbours."""
    return [message.content for message in chat]


def ask_all(
    gguf: Path,
    chats: Sequence[Chat],
    runtime: Runtime,
    *,
    max_tokens: int,
    context: int,
    temperature: float = 0.0,
    tick: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Answers, in the chats' order: greedy ones, or drawn at a temperature, the same ones each time. `context` is in tokens,
    prompt and answer together. `tick` is called behind each, by several threads. Raises EdgeError.

    A core a server, and one request at a time in each: batching changes the last bits of the logits, and an answer is to be the
    one a device gives. Chats that begin alike go to one server, one after another.
    """
    cores = _cores(runtime)
    servers = max(1, min(cores, SERVERS, len(chats), SERVERS_BYTES // max(1, gguf.stat().st_size)))
    order = sorted(range(len(chats)), key=lambda place: words(chats[place]))
    parts = [order[len(order) * turn // servers : len(order) * (turn + 1) // servers] for turn in range(servers)]

    broken = threading.Event()

    def answered(part: Sequence[int]) -> list[tuple[int, Answer]]:
        given = []
        with _served(gguf, max(1, cores // servers), context) as ask:
            for place in part:
                if broken.is_set():
                    break
                given.append((place, ask(chats[place], max_tokens, temperature, place)))
                tick()
        return given

    with ThreadPoolExecutor(servers) as pool:
        try:
            found = dict(chain.from_iterable(pool.map(answered, parts)))
        except BaseException:  # the others need not go on, nor be waited for after a Ctrl-C
            broken.set()
            raise
    return [found[place] for place in range(len(chats))]


def seconds_alone(
    gguf: Path, chats: Sequence[Chat], warm: Sequence[Chat], runtime: Runtime, *, max_tokens: int, context: int
) -> list[float]:
    """Seconds for each chat, one at a time on an idle server. Before each, its partner in `warm` is asked, not timed:
    it brings the shared prefix into the server's cache, as it would be in service. Raises EdgeError."""
    taken = []
    with _served(gguf, _cores(runtime), context) as ask:
        for chat, before in zip(chats, warm, strict=True):
            ask(before, 1)
            start = monotonic()
            ask(chat, max_tokens)
            taken.append(monotonic() - start)
    return taken


@contextmanager
def _served(gguf: Path, threads: int, context: int) -> Iterator[Callable[..., Answer]]:
    """The file in llama.cpp's own server with one slot; gives what asks it: (chat, most tokens of the answer, and where it is
    not greedy a temperature and a seed) -> answer."""
    from openai import OpenAI, OpenAIError

    with (
        LlamaServer(gguf, slots=1, ctx_per_slot=context, threads=threads) as server,
        OpenAI(base_url=server.base_url, api_key="local", timeout=600, max_retries=0) as client,
    ):

        def ask(chat: Chat, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> Answer:
            try:
                reply = client.chat.completions.create(
                    model=server.alias,
                    messages=[{"role": m.role, "content": m.content} for m in chat],  # type: ignore[misc]
                    temperature=temperature,
                    seed=seed,
                    max_tokens=max_tokens,
                )
            except OpenAIError as error:
                raise _told(server, error) from error
            choice, read = reply.choices[0], reply.usage.prompt_tokens if reply.usage else 0
            return Answer(choice.message.content or "", read, choice.finish_reason != "length")

        yield ask


def _cores(runtime: Runtime) -> int:
    return runtime.threads or cores()


def _told(server: LlamaServer, error: Exception) -> EdgeError:
    """Why there is no answer: the server's own end, if it has ended, else what it said."""
    server.check()
    return EdgeError(
        f"llama.cpp gave no answer for {server.model.name}: {error}",
        "an input that is longer than the context cannot be answered; shorten it",
    )
