"""What a run would ask of the teacher, counted on the prompts as they would be sent; what that takes, by a rule of thumb or
by a handful of real requests."""

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

from workbench import methods
from workbench.config import Config
from workbench.declaration import Task
from workbench.ledger import Ledger
from workbench.scoring import ratio
from workbench.sources.values import holds_free_text
from workbench.sources.writer import ANSWERS_A_CALL, VALUES_A_CALL, AnswerWriter, InputWriter, ValueWriter
from workbench.stages.shots import answers, asker_for, label_all, tried
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler
from workbench.types import Message

VALUE_CHARS = 15  # with its line end


class Step(NamedTuple):
    """Calls of one kind, and how many characters each of them reads and writes."""

    name: str
    calls: float
    chars_in: float
    chars_out: float


class Rate(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float

    def of(self, count: float) -> "Rate":
        return Rate(*(count * end for end in self))

    def told(self, form: str) -> str:
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


class Rates(NamedTuple):
    """Tokens a character read and written, seconds a token written with all lanes taken (None: not measured), and from how
    many requests."""

    read: Rate
    write: Rate
    seconds: Rate | None
    asked: int


ENGLISH = Rate(1 / 3.6, 1 / 4.14, 1 / 3.06)  # tokens a character of English and JSON, in current tokenizers
GUESSED = Rates(ENGLISH, ENGLISH, None, 0)
READ_PER_S, WRITE_PER_S = 100.0, 45.0  # a 1.5B Q4_K_M teacher on two cores, prefixes not cached


def measured(task: Task, config: Config, ledger: Ledger, rows: int) -> Rates:
    """From the answers to `rows` dev rows, which are in the ledger afterwards: a run asks none of them again. Raises
    TeacherError, also where none is answered."""
    return asyncio.run(_measured(task, config, ledger, rows))


async def _measured(task: Task, config: Config, ledger: Ledger, rows: int) -> Rates:
    dev = task.examples("dev")[:rows]
    labeler = Labeler(task, task.examples("seed"), tried(config)[0], config.shots)
    teacher = build_teacher(config.teacher, config.runtime, ledger)
    try:
        await teacher.prepare()
        asker = asker_for(teacher, ledger, config)
        replies = await label_all(asker, labeler, dev, config)
    finally:
        await teacher.aclose()
    came = [(row, reply) for row, reply in zip(dev, replies, strict=True) if reply is not None]
    answers(dev, replies, asker)
    lanes = min(len(came), asker.concurrency)
    reads = [(reply.usage.prompt_tokens, _chars([labeler.messages(row)])) for row, reply in came]
    writes: list[tuple[float, float]] = [(reply.usage.completion_tokens, len(reply.text)) for _, reply in came]
    takes = [(reply.seconds / lanes, reply.usage.completion_tokens) for _, reply in came]
    # a batch comes when it comes: its pace tells nothing
    return Rates(_rate(reads), _rate(writes), None if config.teacher.batch else _rate(takes), len(came))


def _rate(pairs: Sequence[tuple[float, float]]) -> Rate:
    found = ratio(pairs)
    return Rate(found.value, found.low, found.high).of(0.01)


def planned(task: Task, config: Config) -> list[Step]:
    """An upper bound: retries apart, nothing in the ledger counted off."""
    seeds, dev, test = task.examples("seed"), task.examples("dev")[:10], task.examples("test")
    sample, sources = config.sample, set(task.sources)
    rounds = config.rounds.count  # each with inputs of its own; values, answers and the corpus are asked about once
    inverse = rounds * sample.inverse if "inverse" in sources else 0
    forward = rounds * sample.forward if "forward" in sources else 0
    corpus = len(task.corpus()) if "corpus" in sources else 0
    failing = methods.named(config.distil.method).attempts == "unanswered" and not corpus
    attempted = min((rounds - 1) * config.distil.attempts, inverse) if failing else 0  # what the student may fail at
    modes = tried(config)
    labelers = [Labeler(task, seeds, mode, config.shots) for mode in modes]
    label = max(_chars([labeler.messages(row) for row in dev]) for labeler in labelers)
    writer, values, rng = InputWriter(task, seeds), ValueWriter(task, seeds), random.Random(0)
    slots = [slot for slot, known in values.values.items() if known]
    write = _chars([writer.messages(seed.target, "short", task.given(seed.input)) for seed in seeds[:10]])
    more = _chars([values.messages(slot, rng) for slot in slots])
    answer = sum(len(task.output.dump(seed.target)) for seed in seeds) / len(seeds)
    answerer = AnswerWriter(task, seeds)
    new = _chars([answerer.messages(group, rng) for group in answerer.groups])
    written = (
        sample.answers_per_group if inverse and any(holds_free_text(task.output, seed.target) for seed in seeds) else 0
    )
    lists = -(-sample.values_per_slot // VALUES_A_CALL) if inverse else 0
    looks = sum(getattr(validator, "votes", 1) for validator in task.dear)
    voters = sum(member.votes for member in config.pool.teachers)  # `teacher` too, where who answers is another
    answered = (forward + corpus + attempted) * sample.candidates
    judged = inverse * sample.candidates + answered
    return [
        Step("choose the shots", len(modes) * config.shots.rows if len(modes) > 1 or task.floor else 0, label, answer),
        Step("write values", len(slots) * lists, more, VALUES_A_CALL * VALUE_CHARS),
        Step("write answers", len(answerer.groups) * -(-written // ANSWERS_A_CALL), new, ANSWERS_A_CALL * answer),
        Step("write inputs", inverse * sample.candidates + forward, write, answer),
        Step("answer inputs", answered, label, answer),
        Step("second looks", judged * looks, label, answer),
        Step("votes", judged * voters, label, answer),
        Step("teacher on test", min(config.evaluate.rows or len(test), len(test)), label, answer),
    ]


def told(steps: Sequence[Step], config: Config, rates: Rates) -> list[str]:
    """Lines to print: calls, tokens, money, minutes."""
    lines = [f"{'':18}{'calls':>8}{'tokens in':>12}{'tokens out':>12}"]
    for name, calls, chars_in, chars_out in steps:
        read, wrote = calls * chars_in * rates.read.value, calls * chars_out * rates.write.value
        lines.append(f"{name:18}{calls:8,.0f}{read:12,.0f}{wrote:12,.0f}")
    read_all = rates.read.of(sum(step.calls * step.chars_in for step in steps))
    wrote_all = rates.write.of(sum(step.calls * step.chars_out for step in steps))
    calls = sum(step.calls for step in steps)
    lines.append(f"{'at most':18}{calls:8,.0f}{read_all.value:12,.0f}{wrote_all.value:12,.0f}")
    source = f"as {rates.asked} requests say" if rates.asked else "as is usual in English; --ask 8 measures it"
    lines.append(f"tokens in {read_all.told(',.0f')}, out {wrote_all.told(',.0f')}, {source}")
    price_in, price_out = map(max, zip(*(teacher.price for teacher in config.teachers), strict=True))
    if price_in or price_out:
        ends = zip(read_all, wrote_all, strict=True)
        cost = Rate(*((read * price_in + wrote * price_out) / 1e6 for read, wrote in ends))
        dearest = " (the dearest teacher's)" if config.pool.teachers else ""
        lines.append(
            f"at {price_in:g} and {price_out:g} a million tokens{dearest}: at most {cost.told('.2f')} in money"
        )
    if rates.seconds is not None:
        ends = zip(wrote_all, rates.seconds, strict=True)
        minutes = Rate(*(wrote * seconds / 60 for wrote, seconds in ends))
        lines.append(f"at most {minutes.told('.0f')} minutes, at the pace of these {rates.asked}")
    elif not config.teacher.base_url:
        worst = (read_all.value / READ_PER_S + wrote_all.value / WRITE_PER_S) / 60
        lines.append(f"a local 1.5B teacher on two cores: at most {worst:.0f} minutes; shared prefixes save most of it")
    lines.append(f"sampling stops at {config.sample.max_calls:,} calls, {config.sample.max_tokens:,} tokens, "
                 f"{config.sample.max_money:g} in money or {config.sample.max_minutes:g} minutes")  # fmt: skip
    return lines


def _chars(chats: Sequence[Sequence[Message]]) -> float:
    """The mean length of a chat, 0 for none."""
    return sum(len(message.content) for chat in chats for message in chat) / max(1, len(chats))
