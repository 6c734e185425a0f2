"""A transformers model in this process as a teacher: a hub id, a folder, or a GGUF unpacked.

Requests that are under way at the same time are answered in one batch, and what some of them begin with is read once
(`students.generate`). No constrained decoding: the validators see to the form.
"""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import TeacherError
from workbench.teachers.reading import Asked, Reading
from workbench.types import Reply, Request, Usage

if TYPE_CHECKING:
    from workbench.logits import Row
    from workbench.students.generate import Answer, Generator, Job

GATHER_S = 0.05  # what comes this soon after the model was free begins together


class Waiting:
    """A request, and the place where its answer is awaited."""

    def __init__(self, request: Request, ids: tuple[int, ...], shared: int) -> None:
        """`ids` are the tokens of the prompt, of which the first `shared` are others' too."""
        from workbench.students.generate import Job

        self.k = request.k
        self.job = Job(ids, request.max_tokens, request.temperature, request.top_p, name=id(self), shared=shared)
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
    """`at_once` requests under way keep its batches full: all lines of the largest, and the prompts that are read next.
    `narrow`: it was trained as a student is, and reads the last message as one does."""

    keeper = None
    at_once = 192

    def __init__(self, source: str | Path, *, model: str, licence: str, narrow: bool = False) -> None:
        self.model = model
        self._narrow = narrow
        self.licence = licence
        self._source = source
        self._loaded: tuple[Reading, Generator] | None = None
        self._waiting: list[Waiting] = []
        self._lock = threading.Lock()  # of `_waiting`: asked for here, taken by the worker's thread
        self._loading = threading.Lock()
        self._broken: Exception | None = None  # why it cannot be loaded: found out once
        self._worker: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Unpack a GGUF (one to two minutes for a model of 1.5 billion, the first time), load it, and, once a machine, measure
        how many lines a batch is best given."""
        await asyncio.to_thread(self._measure)

    def _measure(self) -> None:
        from workbench.measured import fastest
        from workbench.students.generate import LINES

        generator = self._load()[1]
        where = f"{self.model} on {generator.model.device}"
        generator.lines = fastest(f"lines of a batch for {where}, torch {version('torch')}", LINES, generator.pace)

    async def complete(self, request: Request) -> Reply:
        if request.top_logprobs:
            raise TeacherError(
                f"{self.model} tells what it thinks of a token when it reads the rows, not while it answers",
                "leave teacher.top_logprobs out; --method kd has it read them",
                kind="refused",
                fatal=True,
            )
        loaded = self._loaded if self._loaded is not None else await asyncio.to_thread(self._load)
        ids = loaded[0].prompt(request.messages)
        item = Waiting(request, ids, loaded[0].shared(request.messages, ids))
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
        """Answer all who wait, and who comes meanwhile."""
        served: dict[int, Waiting] = {}

        def take(count: int) -> "Sequence[Job]":
            with self._lock:
                taken, self._waiting = self._waiting[:count], self._waiting[count:]
                served.update({item.job.name: item for item in taken})
                return [item.job for item in taken]

        def give(job: "Job", answer: "Answer") -> None:
            item = served.pop(job.name)
            item.answer(self._reply(item, answer))

        try:
            with self._lock:
                seed = self._waiting[0].k if self._waiting else 0
            self._load()[1].run(take, give, seed)
        except Exception as error:  # noqa: BLE001 - handed to each who asked and is under way
            told = error if isinstance(error, TeacherError) else TeacherError(f"{self.model}: {error!r}", kind="server")
            for item in served.values():
                item.answer(told)

    def _reply(self, item: Waiting, answer: "Answer") -> Reply:
        job, written = item.job, len(answer.tokens)
        return Reply(
            text=str(self._load()[0].tokenizer.decode(answer.tokens, skip_special_tokens=True)),
            finish="length" if written >= job.max_tokens else "stop",
            usage=Usage(prompt_tokens=len(job.ids), completion_tokens=written, cached_tokens=job.shared),
            seconds=time.monotonic() - item.started,
            logprob=fmean(answer.logprobs),
        )

    def _load(self) -> tuple[Reading, "Generator"]:
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

    def score(self, asked: Asked, k: int) -> "Iterator[tuple[str, Row]]":
        """What it thinks of answers as if it had written them: each a name, the messages before it, and its text. By length; of
        each token of an answer, its end-of-turn last, the `k` likeliest."""
        from workbench.logits import Row

        reading, generator = self._load()
        for text, top in generator.score(reading.texts(asked), k):
            tokens_T = np.array(text.ids[-text.written :], dtype=np.int32)
            yield asked[text.name][0], Row(tokens_T, top.ids_C_K.numpy().astype(np.int32), top.logprobs_C_K.numpy())

    @property
    def vocabulary(self) -> int:
        return int(self._load()[1].model.config.vocab_size)

    def folder(self) -> Path:
        """Of its weights and its tokenizer."""
        from workbench import models
        from workbench.students.load import prepare_base

        return prepare_base(models.path_or_name(str(self._source)), models.cache_dir() / "students")

    def _load_now(self) -> tuple[Reading, "Generator"]:
        from workbench.students.generate import Generator
        from workbench.students.load import load_model
        from workbench.students.prepacked import prepack

        folder = self.folder()
        reading = Reading(folder, self.model, narrow=self._narrow)
        model = load_model(folder)
        ends = model.generation_config.eos_token_id if model.generation_config else None
        more = ends if isinstance(ends, list) else [ends]
        stops = {int(end) for end in (*more, reading.tokenizer.eos_token_id) if end is not None}
        prepack(model)
        return reading, Generator(model, frozenset(stops))

    async def aclose(self) -> None:
        with self._lock:
            self._waiting = []
        if self._loaded is not None:
            self._loaded[1].halted = True
        if self._worker is not None:
            self._worker.cancel()
        self._loaded = None
