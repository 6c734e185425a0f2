"""What the wishes are made from: values and answers that the teacher adds to those of the seeds."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from workbench.declaration import Task
from workbench.errors import TeacherError
from workbench.judge import judge_cheap
from workbench.outputs.base import fold
from workbench.sources.values import Pools, fits, holds_free_text, pools_of, spans
from workbench.sources.writer import ANSWERS_A_CALL, VALUES_A_CALL, AnswerWriter, ValueWriter
from workbench.stages.context import Context, write_json
from workbench.stages.pool import Turn
from workbench.types import Example, Message, Request

T = TypeVar("T")
TOKENS_A_VALUE = 12  # at most
TOKENS_AN_ANSWER = 70  # a mean line; what is cut off is passed over


async def value_pools(
    context: Context, asker: Turn, seeds: Sequence[Example], rng: random.Random
) -> tuple[Pools, dict[str, set[str]]]:
    """The seeds' values of each slot, and about `values_per_slot` more by the teacher; and those of them that the task's
    validators do not let stand. The others are written to values.json: the recombination has use for them too."""
    writer = ValueWriter(context.task, seeds)
    calls = -(-context.config.sample.values_per_slot // VALUES_A_CALL)
    slots = [slot for slot, values in writer.values.items() if values for _ in range(calls)]
    requests = [
        _request(writer.messages(slot, rng), VALUES_A_CALL * TOKENS_A_VALUE, k, "values")
        for k, slot in enumerate(slots)
    ]
    found = await read_all(asker, requests, writer.read)
    pools = pools_of(context.task.output, [seed.target for seed in seeds])
    known = {slot: {fold(value) for value in values} for slot, values in pools.items()}
    fresh: dict[str, dict[str, str]] = {slot: {} for slot in pools}  # by its folded form: how it is spelled first
    standing: dict[str, dict[str, str]] = {slot: {} for slot in pools}
    for slot, values in zip(slots, found, strict=True):
        stands = Stands(context.task, seeds, slot)
        for value in values:
            if (folded := str(fold(value))) in known[slot]:
                continue
            fresh[slot].setdefault(folded, value)
            if stands(value):
                standing[slot].setdefault(folded, value)
    write_json(context.out / "values.json", {slot: [*own, *standing[slot].values()] for slot, own in pools.items()})
    if slots:
        context.say(f"sample: {sum(map(len, standing.values()))} new values for {len(set(slots))} slots")
    refused = {slot: set(new.values()) - set(standing[slot].values()) for slot, new in fresh.items()}
    return {slot: [*own, *fresh[slot].values()] for slot, own in pools.items()}, refused


async def new_answers(context: Context, asker: Turn, seeds: Sequence[Example], rng: random.Random) -> list[Any]:
    """About `answers_per_group` new answers a group by the teacher, where an answer holds free text that is not scored (a
    summary): it tells the matter, and new values alone would tell the seeds' matters again."""
    output, config = context.task.output, context.config.sample
    if not any(holds_free_text(output, seed.target) for seed in seeds):
        return []
    writer = AnswerWriter(context.task, seeds)
    calls = -(-config.answers_per_group // ANSWERS_A_CALL)
    groups = [group for group in writer.groups for _ in range(calls)]
    requests = [
        _request(writer.messages(group, rng), ANSWERS_A_CALL * TOKENS_AN_ANSWER, k, "answers")
        for k, group in enumerate(groups)
    ]
    known = {output.dump(fold(seed.target)) for seed in seeds}
    fresh: dict[str, Any] = {}
    for answers in await read_all(asker, requests, writer.read):
        for answer in answers:
            key = output.dump(fold(answer))
            if key not in known:
                fresh.setdefault(key, answer)
    if groups:
        context.say(f"sample: {len(fresh)} new answers in {len(writer.groups)} groups")
    return list(fresh.values())


def _request(messages: tuple[Message, ...], max_tokens: int, k: int, purpose: str) -> Request:
    return Request(messages=messages, temperature=1.0, max_tokens=max_tokens, k=k, purpose=purpose)


async def read_all(asker: Turn, requests: Sequence[Request], read: Callable[[str], list[T]]) -> list[list[T]]:
    """What is read of each reply; nothing of one that did not come: it is in the ledger's failures, or the asker holds the
    budget that ended it."""

    async def one(request: Request) -> list[T]:
        try:
            answer = await asker.ask(request)
        except TeacherError as error:
            if error.fatal:
                raise
            return []
        return read(answer.reply.text)

    return list(await asyncio.gather(*(one(request) for request in requests)))


class Stands:
    """Would a value pass the task's cheap validators in the place of a seed's own value, in the seed's text and answer alike?

    Where no seed says its value word for word, and in no other slot too, any value stands.
    """

    def __init__(self, task: Task, seeds: Sequence[Example], slot: str) -> None:
        self.task = task
        found = [
            (seed, own)
            for seed in seeds
            for own in task.output.slots(seed.target)
            if own.name == slot
            and len(spans(str(own.value), str(seed.input[task.written]))) == 1
            and sum(fold(str(own.value)) in fold(str(each.value)) for each in task.output.slots(seed.target)) == 1
        ]
        self.place = found[0] if found else None

    def __call__(self, value: str) -> bool:
        if self.place is None:
            return True
        seed, own = self.place
        answer = self.task.output.replace(seed.target, own.path, value)
        if not fits(self.task.output, answer):
            return False
        text = str(seed.input[self.task.written])
        [(start, end)] = spans(str(own.value), text)
        input_ = {**seed.input, self.task.written: text[:start] + value + text[end:]}
        try:
            example = self.task.example(input_, split="new", target=answer)
        except ValidationError:  # longer than the task's input may be
            return False
        return judge_cheap(self.task, example, self.task.output.dump(answer)).outcome == "pass"
