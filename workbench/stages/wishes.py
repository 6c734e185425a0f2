"""What to ask of the teacher: answers that want an input, inputs that want an answer."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from workbench.outputs.base import fold
from workbench.sources.values import exchanged, pools_of
from workbench.sources.writer import InputWriter
from workbench.stages.context import Context
from workbench.stages.gate import held_out, text_of
from workbench.stages.stock import new_answers, read_all, value_pools
from workbench.teachers.asker import Asker
from workbench.types import Example, Request

JOINED = 0.1  # share of the answers that two are joined to
TOO_LIKE = 0.8  # a held-out input, by Jaccard similarity, to be shown to a teacher


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
    pools = await value_pools(context, asker, seeds, rng)
    models = [*(seed.target for seed in seeds), *await new_answers(context, asker, seeds, rng)]
    answers: dict[str, Any] = {}
    tries = 0
    while len(answers) < config.inverse and tries < config.inverse * 5:
        tries += 1
        answer = exchanged(output, rng.choice(models), pools, rng)
        if rng.random() < JOINED:
            other = exchanged(output, rng.choice(models), pools, rng)
            answer = output.join(answer, other) or answer
        key = output.dump(fold(answer)) if output.slots(answer) else f"empty {tries}"
        answers.setdefault(key, answer)
    writer = InputWriter(context.task, seeds)
    wishes = [Wish("inverse", answer=answer, style=writer.style(rng)) for answer in answers.values()]
    rng.shuffle(wishes)
    return wishes


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

    def read(reply: str) -> list[Wish]:
        try:
            return [
                Wish(
                    "forward", example=context.task.example({field: writer.read(reply)}, split="new", source="forward")
                )
            ]
        except ValidationError:  # what was written is no input of the task: one wish less
            return []

    requests = [
        Request(
            messages=writer.messages(answer, writer.style(rng)),
            temperature=config.temperature,
            max_tokens=200,
            k=k,
            purpose="write",
        )
        for k, answer in enumerate(targets)
    ]
    return [wish for wishes in await read_all(asker, requests, read) for wish in wishes]


async def corpus_wishes(context: Context, asker: Asker, seeds: Sequence[Example]) -> list[Wish]:
    """The author's own inputs, but for those that are seeds already or too like a dev or test row to be shown to a teacher;
    in random order, so that a budget that ends early leaves no kind out."""
    gate = held_out(context, TOO_LIKE)
    known = {seed.id for seed in seeds}
    found = [row for row in context.task.corpus() if row.id not in known]
    wishes = [Wish("corpus", example=row) for row in found if gate.like(text_of(row)) is None]
    if len(wishes) < len(found):
        context.say(f"sample: {len(found) - len(wishes)} inputs of the corpus are too like a dev or test row")
    random.Random(context.config.sample.seed).shuffle(wishes)
    return wishes
