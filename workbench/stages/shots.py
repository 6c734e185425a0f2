"""Which few-shot block serves the teacher best: measured on dev rows, and used from then on, as the baseline to beat too."""

import asyncio
from collections.abc import Sequence

from workbench.config import Config, ShotsConfig
from workbench.errors import TeacherError
from workbench.outputs import Output, ParseError
from workbench.scoring import Table, table_of
from workbench.stages.context import Context, write_json
from workbench.teachers.asker import Asker, Limits
from workbench.teachers.base import Teacher
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Reply, Request

MODES = ("group", "fixed", "nearest")


def tried(config: ShotsConfig) -> tuple[str, ...]:
    """The modes that are measured, or the one that is set."""
    if config.mode != "auto":
        return (config.mode,)
    return (*MODES, "program") if config.program else MODES


def run(context: Context) -> None:
    """Writes shots.json: the mode kept, and each tried mode's dev score."""
    mode: str = context.config.shots.mode
    tables: dict[str, Table] = {}
    if mode == "auto":
        dev = context.examples("dev")[: context.config.shots.rows]
        tables = asyncio.run(_try_all(context, dev))
        mode = max(tables, key=lambda name: tables[name]["exact"].value)
        context.say(f"shots: {mode} is kept: " + ", ".join(f"{k} {v['exact'].value:.1f}" for k, v in tables.items()))
    write_json(
        context.out / "shots.json",
        {"mode": mode, "tried": {name: {k: s._asdict() for k, s in t.items()} for name, t in tables.items()}},
    )


async def _try_all(context: Context, dev: Sequence[Example]) -> dict[str, Table]:
    teacher = build_teacher(context.config.teacher, context.config.runtime)
    try:
        asker = asker_for(context, teacher)
        tables = {}
        for mode in tried(context.config.shots):
            labeler = Labeler(context.task, context.examples("seed"), mode, context.config.shots)
            replies = await label_all(asker, labeler, dev, context.config)
            answered = [(row, reply.text) for row, reply in zip(dev, replies, strict=True) if reply is not None]
            if len(answered) < 0.9 * len(dev):
                raise TeacherError(
                    f"the teacher answered only {len(answered)} of {len(dev)} dev rows",
                    "`.workbench/ledger.sqlite` holds the failures; the same command asks again for what is missing",
                    kind="refused",
                    fatal=True,
                )
            rows, texts = zip(*answered, strict=True)
            tables[mode] = score_replies(context.task.output, rows, texts)
            context.say(f"shots: {mode}: {tables[mode]['exact'].value:.1f} exact on {len(dev)} dev rows")
        return tables
    finally:
        await teacher.aclose()


def asker_for(context: Context, teacher: Teacher, limits: Limits | None = None) -> Asker:
    runtime = context.config.runtime
    return Asker(
        teacher,
        context.ledger,
        limits=limits,
        concurrency=max(runtime.concurrency, teacher.at_once),
        attempts=runtime.attempts,
        price=(context.config.teacher.price_in, context.config.teacher.price_out),
    )


def label_request(labeler: Labeler, example: Example, config: Config, k: int = 0) -> Request:
    """The request for a label: greedy for k = 0, drawn at the sampling temperature for the others."""
    return Request(
        messages=labeler.messages(example),
        temperature=0.0 if k == 0 else config.sample.temperature,
        max_tokens=config.teacher.max_tokens,
        k=k,
        json_schema=labeler.task.output.schema() if config.teacher.asks_schema else None,
        purpose="label",
    )


async def label_all(asker: Asker, labeler: Labeler, examples: Sequence[Example], config: Config) -> list[Reply | None]:
    """A greedy label for each example, None where the teacher failed. Requests go out in the order of their prefixes."""
    requests = [label_request(labeler, example, config) for example in examples]
    order = sorted(range(len(requests)), key=lambda i: [message.content for message in requests[i].messages])
    replies: list[Reply | None] = [None] * len(requests)

    async def one(place: int) -> None:
        try:
            _, replies[place] = await asker.ask(requests[place])
        except TeacherError as error:
            if error.fatal:
                raise

    await asyncio.gather(*(one(place) for place in order))
    return replies


def score_replies(output: Output, examples: Sequence[Example], texts: Sequence[str]) -> Table:
    return table_of(
        output, [(parsed(output, text), example.target) for example, text in zip(examples, texts, strict=True)]
    )


def parsed(output: Output, text: str) -> object:
    """The value of a reply, None where it is no answer."""
    try:
        return output.parse(text)
    except ParseError:
        return None
