"""What to ask of the teacher: answers that want an input, inputs that want an answer."""

import random
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from workbench.digest import digest
from workbench.nearest import Nearest
from workbench.outputs.base import fold
from workbench.sources.steering import Steering
from workbench.sources.values import exchanged, pools_of
from workbench.sources.writer import InputWriter
from workbench.stages.context import Context
from workbench.stages.failures import failures_of
from workbench.stages.gate import HeldOut, Leaks, add_leaks
from workbench.stages.pool import Turn
from workbench.stages.stock import new_answers, read_all, value_pools
from workbench.types import Example, Request

JOINED = 0.1  # share of the answers that two are joined to
LOOKED_AT = 10_000  # inputs of a corpus


class Wish(NamedTuple):
    """`example` wants an answer; where it is None, `answer` wants an input in the given style, beside the `given` fields."""

    source: str
    example: Example | None = None
    answer: Any = None
    style: str = ""
    given: Mapping[str, Any] = {}


class Wishes(NamedTuple):
    """Those of one source: about how many, and each in turn."""

    source: str
    about: int
    each: Iterator[Wish]


async def inverse_wishes(context: Context, asker: Turn, seeds: Sequence[Example]) -> Wishes:
    """`sample.inverse` answers: those of the seeds with other values, the teacher's own among them; drawn at random, so that a
    budget that ends early leaves no group out, and each for itself: a value that a changed validator refuses takes its own
    wishes away, no other comes in their place, and the rest is found in the ledger. Of `sample.steer` draws each time the one
    whose cells hold least; in a later round, answers like those that the one before got wrong."""
    config, output = context.config.sample, context.task.output
    if not config.inverse:
        return Wishes("inverse", 0, iter(()))
    rng = random.Random(config.seed)
    pools, refused = await value_pools(context, asker, seeds, rng)
    models = [(seed.target, context.task.given(seed.input)) for seed in seeds]
    if not any(value is not None for _, given in models for value in given.values()):
        nothing = models[0][1]  # what answers a schema, say, is not made up without it
        models += [(answer, nothing) for answer in await new_answers(context, asker, seeds, rng)]
    else:
        pools = {}  # nor is a value of another schema's answer
    writer, failures = InputWriter(context.task, seeds), failures_of(context)

    def drawn(name: str) -> Wish:
        rng = random.Random(name)
        model, given = failures.drawn(models, rng) if failures is not None else rng.choice(models)
        beside = [one for one, its in models if its == given]
        values = pools or pools_of(output, beside)
        answer = exchanged(output, model, values, rng)
        if rng.random() < JOINED:
            answer = output.join(answer, exchanged(output, rng.choice(beside), values, rng)) or answer
        return Wish("inverse", None, answer, writer.style(rng), given)

    steering = Steering(output, [seed.target for seed in seeds])
    wanted: dict[tuple[str, str], Wish | None] = {}
    tries = 0
    while len(wanted) < config.inverse and tries < config.inverse * 5:
        tries += 1
        first = f"{config.seed} {tries}" if context.round == 1 else f"{config.seed} round {context.round} {tries}"
        names = [first, *(f"{first} {more}" for more in range(1, config.steer))]
        wish = steering.neediest([drawn(name) for name in names], lambda one: one.answer)
        slots = output.slots(wish.answer)
        key = (output.dump(fold(wish.answer)) if slots else f"empty {tries}", digest(wish.given))
        if key not in wanted:
            stands = not any(slot.value in refused.get(slot.name, ()) for slot in slots)
            wanted[key] = wish if stands else None
            steering.take(wish.answer)
    wishes = [wish for wish in wanted.values() if wish is not None]
    return Wishes("inverse", len(wishes), iter(wishes))


async def forward_wishes(context: Context, asker: Turn, seeds: Sequence[Example]) -> Wishes:
    """`sample.forward` new inputs: written for an answer like in `inverse`, but answered anew by the teacher."""
    config, task = context.config.sample, context.task
    rng = random.Random(config.seed + context.round)
    writer, failures = InputWriter(task, seeds), failures_of(context)
    pools = pools_of(task.output, [seed.target for seed in seeds])
    if failures is not None:
        models = [failures.drawn([(seed.target, seed) for seed in seeds], rng)[1] for _ in range(config.forward)]
    else:
        models = [rng.choice(list(seeds)) for _ in range(config.forward)]
    steering = Steering(task.output, [seed.target for seed in seeds])

    def answer(model: Example) -> Any:
        drawn = [exchanged(task.output, model.target, pools, rng) for _ in range(config.steer)]
        chosen = steering.neediest(drawn, lambda one: one)
        steering.take(chosen)
        return chosen

    requests = [
        Request(
            messages=writer.messages(answer(model), writer.style(rng), task.given(model.input)),
            temperature=config.temperature,
            max_tokens=200,
            k=k,
            purpose="write",
        )
        for k, model in enumerate(models)
    ]
    wishes = []
    for model, texts in zip(models, await read_all(asker, requests, lambda reply: [writer.read(reply)]), strict=True):
        for text in texts:
            try:
                example = task.example({**model.input, task.written: text}, split="new", source="forward")
            except ValidationError:  # what was written is no input of the task: one wish less
                continue
            wishes.append(Wish("forward", example))
    return Wishes("forward", len(wishes), iter(wishes))


async def corpus_wishes(
    context: Context,
    asker: Turn,
    seeds: Sequence[Example],
    *,
    corpus: Sequence[Example],
    leaks: Leaks,
    asked: Container[str] = (),
    first: Container[str] = (),
    source: str = "corpus",
) -> Wishes:
    """The author's own inputs, but for those that are seeds already or too like a dev or test row to be shown to a teacher.
    Each is read, and looked at, when its turn comes; the held-out rows that one was too like go into `leaks`. What was `asked`
    before is passed over. Those come `first` whose ids are named."""
    order = asked_order(context, corpus, seeds)
    if first:
        order = [
            *sorted(order[:LOOKED_AT], key=lambda place: corpus[place].id not in first),
            *order[LOOKED_AT:],
        ]
    return Wishes(source, len(order), unlabelled(context, corpus, order, seeds, asked, leaks, source))


def asked_order(context: Context, corpus: Sequence[Example], seeds: Sequence[Example]) -> list[int]:
    """Of the places in a corpus: random, so that a budget that ends early leaves no kind out. Of the first LOOKED_AT come,
    steered, those first whose nearest seed's answer falls into cells that hold least, and in a later round those most like what
    the one before got wrong."""
    order = list(range(len(corpus)))
    random.Random(context.config.sample.seed).shuffle(order)
    if context.config.sample.steer > 1:
        nearest, steering = Nearest(seeds), Steering(context.task.output, [seed.target for seed in seeds])
        ahead = steering.in_turn(order[:LOOKED_AT], lambda place: nearest.to(corpus[place], 1)[0].target)
        order = [*ahead, *order[LOOKED_AT:]]
    if (failures := failures_of(context)) is not None:
        ahead = iter(sorted(order[:LOOKED_AT], key=lambda place: -failures.likeness(corpus[place])))
        order = [*ahead, *order[LOOKED_AT:]]
    return order


def unlabelled(
    context: Context,
    corpus: Sequence[Example],
    order: Sequence[int],
    seeds: Sequence[Example],
    asked: Container[str],
    leaks: Leaks,
    source: str = "corpus",
) -> Iterator[Wish]:
    """A wish for each input of the corpus that may be asked about, in the given order of places."""
    gate, known = HeldOut(context), {seed.id for seed in seeds}
    for place in order:
        example = corpus[place]
        if example.id in known or example.id in asked:
            continue
        like = gate.like(example)
        if like is None:
            yield Wish(source, example=example)
        else:
            add_leaks(leaks, like.rows, [like.way])
