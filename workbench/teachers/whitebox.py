"""A transformers model in this process as a teacher: a hub id, a folder, or a GGUF unpacked.

Requests that are under way at the same time and begin alike are answered in one batch (`students.generate`). No constrained
decoding: the validators see to the form.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import TeacherError
from workbench.types import Message, Reply, Request, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from workbench.students.generate import Generator, Job

FEW = 2  # requests; a few-shot block that is asked for once is read with the others of its batch
GATHER_S = 0.05  # what comes this soon after the model was free begins together


class Waiting:
    """A request, and the place where its answer is awaited."""

    def __init__(self, request: Request, tokenizer: "PreTrainedTokenizerBase") -> None:
        from workbench.students.generate import Job

        self.block = request.messages[:-1]
        self.k = request.k
        ids = _tokens(tokenizer, request.messages, prompt=True)
        self.job = Job(ids, request.max_tokens, request.temperature, request.top_p, name=id(self))
        self.started = time.monotonic()
        self.loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[Reply] = self.loop.create_future()

    def answer(self, reply: Reply | Exception) -> None:
        """From the worker's thread."""
        self.loop.call_soon_threadsafe(self._answered, reply)

    def _answered(self, reply: Reply | Exception) -> None:
        if self.reply.done():  # nobody waits any more
            return
        if isinstance(reply, Exception):
            self.reply.set_exception(reply)
        else:
            self.reply.set_result(reply)


class TransformersTeacher:
    """`at_once` requests under way keep its batches full."""

    at_once = 256

    def __init__(self, source: str | Path, *, model: str, licence: str) -> None:
        self.model = model
        self.licence = licence
        self._source = source
        self._loaded: tuple[PreTrainedTokenizerBase, Generator] | None = None
        self._waiting: list[Waiting] = []
        self._lock = threading.Lock()  # of `_waiting`: asked for here, taken by the worker's thread
        self._loading = threading.Lock()
        self._broken: Exception | None = None  # why it cannot be loaded: found out once
        self._worker: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Unpack a GGUF: one to two minutes for a model of 1.5 billion, the first time."""
        await asyncio.to_thread(self._folder)

    async def complete(self, request: Request) -> Reply:
        loaded = self._loaded if self._loaded is not None else await asyncio.to_thread(self._load)
        item = Waiting(request, loaded[0])
        with self._lock:
            self._waiting.append(item)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await item.reply

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            await asyncio.to_thread(self._serve)

    def _serve(self) -> None:
        """Answer all that begin as most of those who wait do, and who comes meanwhile and begins so too. Where hardly two
        begin alike, what they share is the first message."""
        served: dict[int, Waiting] = {}
        shared: tuple[int, ...] = ()
        try:
            tokenizer, generator = self._load()
            shared, k = self._most(tokenizer)
            generator.run(shared, *self._ends(shared, served, tokenizer), seed=k)
        except Exception as error:  # noqa: BLE001 - handed to each who asked: those under way, and those who begin alike
            told = error if isinstance(error, TeacherError) else TeacherError(f"{self.model}: {error!r}", kind="server")
            with self._lock:
                failed = [item for item in self._waiting if item.job.ids[: len(shared)] == shared]
                self._waiting = [item for item in self._waiting if item.job.ids[: len(shared)] != shared]
            for item in (*served.values(), *failed):
                item.answer(told)

    def _most(self, tokenizer: "PreTrainedTokenizerBase") -> tuple[tuple[int, ...], int]:
        """The tokens that most of those who wait begin with, and the `k` of the first of them."""
        from workbench.students.generate import common

        with self._lock:
            by_block: dict[tuple[Message, ...], list[Waiting]] = {}
            for item in self._waiting:
                by_block.setdefault(item.block, []).append(item)
        largest = max(by_block.values(), key=len)
        first = largest[0]
        block = first.block if len(largest) >= FEW else first.block[:1]
        head = _tokens(tokenizer, block, prompt=False) if block else ()
        return first.job.ids[: min(common(head, first.job.ids), len(first.job.ids) - 1)], first.k

    def _ends(
        self, shared: tuple[int, ...], served: dict[int, Waiting], tokenizer: "PreTrainedTokenizerBase"
    ) -> "tuple[Callable[[int], Sequence[Job]], Callable[[Job, list[int]], None]]":
        """Where the generator takes its jobs from and gives its answers to. Who is under way stands in `served`."""

        def take(count: int) -> "Sequence[Job]":
            with self._lock:
                fit = [item for item in self._waiting if item.job.ids[: len(shared)] == shared][:count]
                served.update({item.job.name: item for item in fit})
                self._waiting = [item for item in self._waiting if item.job.name not in served]
            return [item.job for item in fit]

        def give(job: "Job", new: list[int]) -> None:
            item = served.pop(job.name)
            item.answer(
                Reply(
                    text=str(tokenizer.decode(new, skip_special_tokens=True)),
                    finish="length" if len(new) >= job.max_tokens else "stop",
                    usage=Usage(prompt_tokens=len(job.ids), completion_tokens=len(new), cached_tokens=len(shared)),
                    seconds=time.monotonic() - item.started,
                )
            )

        return take, give

    def _load(self) -> "tuple[PreTrainedTokenizerBase, Generator]":
        with self._loading:
            if self._loaded is not None:
                return self._loaded
            if self._broken is not None:
                raise self._broken
            try:
                self._loaded = self._load_now()
            except Exception as error:
                self._broken = error
                raise
            return self._loaded

    def _folder(self) -> Path:
        from workbench.models import cache_dir
        from workbench.students.load import prepare_base

        return prepare_base(self._source, cache_dir() / "students")

    def _load_now(self) -> "tuple[PreTrainedTokenizerBase, Generator]":
        from workbench.students.generate import Generator
        from workbench.students.load import load_model, load_tokenizer

        folder = self._folder()
        tokenizer = load_tokenizer(folder)
        if tokenizer.chat_template is None:
            raise TeacherError(
                f"{self.model} has no chat template", "take an instruct model", kind="refused", fatal=True
            )
        model = load_model(folder)
        ends = model.generation_config.eos_token_id if model.generation_config else None
        more = ends if isinstance(ends, list) else [ends]
        stops = {int(end) for end in (*more, tokenizer.eos_token_id) if end is not None}
        return tokenizer, Generator(model, frozenset(stops))

    async def aclose(self) -> None:
        with self._lock:
            self._waiting = []
        if self._loaded is not None:
            self._loaded[1].halted = True
        if self._worker is not None:
            self._worker.cancel()
        self._loaded = None


def _tokens(tokenizer: "PreTrainedTokenizerBase", messages: tuple[Message, ...], *, prompt: bool) -> tuple[int, ...]:
    try:
        text = tokenizer.apply_chat_template(
            [message.model_dump() for message in messages], add_generation_prompt=prompt, tokenize=False
        )
    except Exception as error:
        raise TeacherError(f"the model's chat template refuses: {error}", kind="refused", fatal=True) from error
    return tuple(tokenizer(str(text), add_special_tokens=False)["input_ids"])
