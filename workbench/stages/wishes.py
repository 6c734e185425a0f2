"""What to ask of the teacher: answers that want an input, inputs that want an answer."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from workbench.errors import DataError, TeacherError
from workbench.outputs.base import fold
from workbench.sources.values import Pools, exchanged, pools_of
from workbench.sources.writer import VALUES_A_CALL, InputWriter, ValueWriter
from workbench.stages.context import Context, write_json
from workbench.teachers.asker import Asker
from workbench.types import Example, Request


JOINED = 0.1  # share of the answers that two are joined to


class Wish(NamedTuple):
    """`example` wants an answer; where it is None, `answer` wants an input in the given style."""

    source: str
    example: Example | None = None
    answer: Any = None
    style: str = ""


async def inverse_wishes(context: Context, asker: Asker, seeds: Sequence[Example]) -> list[Wish]:
    """`sample.inverse` answers: those of the seeds with other values, the teacher's own among them; in random order, so
    that a budget that ends early leaves no group out."""
    config, output = context.config.sample, context.task.output
    if not config.inverse:
        return []
    rng = random.Random(config.seed)
    pools = await _pools(context, asker, seeds, rng)
    answers: dict[str, Any] = {}
    tries = 0
    while len(answers) < config.inverse and tries < config.inverse * 5:
        tries += 1
        answer = exchanged(output, rng.choice(seeds).target, pools, rng)
        if rng.random() < JOINED:
            other = exchanged(output, rng.choice(seeds).target, pools, rng)
            answer = output.join(answer, other) or answer
        key = output.dump(fold(answer)) if output.slots(answer) else f"empty {tries}"
        answers.setdefault(key, answer)
    writer = InputWriter(context.task, seeds)
    wishes = [Wish("inverse", answer=answer, style=writer.style(rng)) for answer in answers.values()]
    rng.shuffle(wishes)
    return wishes


async def _pools(context: Context, asker: Asker, seeds: Sequence[Example], rng: random.Random) -> Pools:
    """The seeds' values of each slot, and about `values_per_slot` more by the teacher. Written to values.json, for the
    recombination has use for them too."""
    count = context.config.sample.values_per_slot
    writer = ValueWriter(context.task, seeds)
    asked = [(slot, k) for slot, values in writer.values.items() if values for k in range(-(-count // VALUES_A_CALL))]
    requests = [
        Request(
            messages=writer.messages(slot, rng),
            temperature=1.0,
            max_tokens=VALUES_A_CALL * 12,
            k=k,
            purpose="values",
        )
        for slot, k in asked
    ]

    async def one(request: Request) -> list[str]:
        try:
            _, reply = await asker.ask(request)
        except TeacherError as error:
            if error.fatal or error.kind == "budget":
                raise
            return []
        return writer.read(reply.text)

    found = await asyncio.gather(*(one(request) for request in requests))
    pools = pools_of(context.task.output, [seed.target for seed in seeds])
    known = {slot: {fold(value) for value in values} for slot, values in pools.items()}
    fresh = 0
    for (slot, _), values in zip(asked, found, strict=True):
        for value in values:
            if fold(value) not in known[slot]:
                known[slot].add(fold(value))
                pools[slot].append(value)
                fresh += 1
    write_json(context.out / "values.json", pools)
    context.say(f"sample: {fresh} new values for {len(writer.values)} slots")
    return pools


async def forward_wishes(context: Context, asker: Asker, seeds: Sequence[Example]) -> list[Wish]:
    """`sample.forward` new inputs: written for an answer like in `inverse`, but answered anew by the teacher."""
    config = context.config.sample
    rng = random.Random(config.seed + 1)
    writer = InputWriter(context.task, seeds)
    pools = pools_of(context.task.output, [seed.target for seed in seeds])
    targets = [
        exchanged(context.task.output, rng.choice(list(seeds)).target, pools, rng) for _ in range(config.forward)
    ]
    field = next(iter(context.task.prompt.input.model_fields))

    async def one(answer: Any, style: str, k: int) -> Wish | None:
        request = Request(
            messages=writer.messages(answer, style),
            temperature=config.temperature,
            max_tokens=200,
            k=k,
            purpose="write",
        )
        try:
            _, reply = await asker.ask(request)
        except TeacherError as error:
            if error.fatal or error.kind == "budget":
                raise
            return None
        try:
            example = context.task.example({field: writer.read(reply.text)}, split="new", source="forward")
        except ValidationError:  # what was written is no input of the task: one wish less
            return None
        return Wish("forward", example=example)

    made = await asyncio.gather(*(one(answer, writer.style(rng), k) for k, answer in enumerate(targets)))
    return [wish for wish in made if wish is not None]


async def corpus_wishes(context: Context, asker: Asker, seeds: Sequence[Example]) -> list[Wish]:
    """The user's own inputs, one JSON object a line in the file that the task's `corpus` names."""
    import json

    path = context.task.corpus
    if path is None or not path.is_file():
        raise DataError(f"the task names the source `corpus`, but its file is {path}", "set Task(corpus=Path(...))")
    wishes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            example = context.task.example(json.loads(line), split="new", source="corpus")
        except ValueError as error:
            raise DataError(f"{path}, row {number}: {error}", "each line is one input of the task as JSON") from None
        wishes.append(Wish("corpus", example=example))
    return wishes
