"""Which few-shot block serves the teacher best, measured on dev rows.

The best is the baseline to beat. For sampling the modes are gone through in order, from cheap to dear: `group` is read once for
all requests of a group; a part of `mixed`, and the whole of `nearest`, are read anew for each. A later one takes the place of
an earlier where it is better by more than one standard error of their paired difference; a row more or less is chance, and
labels that take three times as long are a third as many. Of a teacher on this machine `nearest` is tried only where it is
set: a model of 1.5 billion reads such a block for nine seconds on two cores (what is not shared of `mixed` for three), and
answers sixty requests of a shared one in a minute.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from workbench.config import Config
from workbench.errors import TeacherError
from workbench.ledger import Ledger
from workbench.outputs import Output, ParseError
from workbench.scoring import Table, plainly_better, table_of
from workbench.stages.context import Context, write_json
from workbench.stages.ticker import Ticker
from workbench.teachers.asker import RETRIED, Asker, Limits, Spent
from workbench.teachers.base import Teacher
from workbench.teachers.build import build_teacher
from workbench.teachers.pace import Pace
from workbench.teachers.posted import AHEAD, PostedTeacher
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Reply, Request

ANSWERED = 0.9  # of the dev rows, at least
SHARED = ("group", "fixed", "mixed")  # at least in part
MODES = (*SHARED, "nearest")


def tried(config: Config) -> tuple[str, ...]:
    """The modes that are measured, or the one that is set."""
    if config.shots.mode != "auto":
        return (config.shots.mode,)
    modes = MODES if config.teacher.base_url else SHARED
    return (*modes, "program") if config.shots.program else modes


def run(context: Context) -> None:
    """Writes shots.json: the `mode` that sampling keeps, the `best` one, and each tried mode's dev score. Raises TeacherError
    below the task's floor."""
    mode: str = context.config.shots.mode
    best = mode
    tables: dict[str, Table] = {}
    rights: dict[str, list[bool]] = {}
    if mode == "auto" or context.task.floor:
        dev = context.examples("dev")[: context.config.shots.rows]
        tables, rights = asyncio.run(_try_all(context, dev))
        mode, best = kept(rights), max(tables, key=lambda name: tables[name]["exact"].value)
        context.say(f"shots: {mode} is kept: " + ", ".join(f"{k} {v['exact'].value:.1f}" for k, v in tables.items()))
        _above(context.task.floor, context.config.teacher.model, tables[mode]["exact"].value)
    write_json(
        context.out / "shots.json",
        {
            "mode": mode,
            "best": best,
            "tried": {name: {k: s._asdict() for k, s in t.items()} for name, t in tables.items()},
        },
    )


def _above(floor: float, teacher: str, exact: float) -> None:
    if exact < floor:
        raise TeacherError(
            f"{teacher} has {exact:.1f} exact on dev; the task asks for {floor:g} of a teacher",
            "take a better one (`workbench teachers TASK --teacher A --teacher B` compares), more seeds, or a lower `floor`",
            kind="refused",
            fatal=True,
        )


def kept(rights: Mapping[str, Sequence[bool]]) -> str:
    """The mode to keep, of rows right by mode, the mode first that stays unless another is plainly better."""
    stays, *others = rights
    for mode in others:
        if plainly_better(rights[mode], rights[stays]):
            stays = mode
    return stays


async def _try_all(context: Context, dev: Sequence[Example]) -> tuple[dict[str, Table], dict[str, list[bool]]]:
    """Each mode's scores, and which rows it got right."""
    teacher = build_teacher(context.config.teacher, context.config.runtime, context.ledger)
    try:
        await teacher.prepare()
        asker = asker_for(teacher, context.ledger, context.config)
        tables: dict[str, Table] = {}
        rights: dict[str, list[bool]] = {}
        modes = tried(context.config)
        labelers = [Labeler(context.task, context.examples("seed"), mode, context.config.shots) for mode in modes]
        tick = Ticker(context.say, "shots", "answers", len(labelers) * len(dev))
        found = await asyncio.gather(
            *(label_all(asker, labeler, dev, context.config, tick=tick) for labeler in labelers)
        )
        for mode, replies in zip(modes, found, strict=True):
            answered = answers(dev, replies, asker)
            rows, texts = zip(*answered, strict=True)
            tables[mode] = score_replies(context.task.output, rows, texts)
            rights[mode] = [right(context.task.output, row, reply) for row, reply in zip(dev, replies, strict=True)]
            context.say(f"shots: {mode}: {tables[mode]['exact'].value:.1f} exact on {len(dev)} dev rows")
        return tables, rights
    finally:
        await teacher.aclose()


def answers(rows: Sequence[Example], replies: Sequence[Reply | None], asker: Asker) -> list[tuple[Example, str]]:
    """The rows that were answered. Raises TeacherError, with the asker's last failure, where too many were not for a score to
    mean something."""
    found = [(row, reply.text) for row, reply in zip(rows, replies, strict=True) if reply is not None]
    if len(found) < ANSWERED * len(rows):
        last = asker.last_failure
        raise TeacherError(
            f"the teacher answered only {len(found)} of {len(rows)} dev rows{f'; the last failure: {last}' if last else ''}",
            f"{f'{last.hint}; ' if last and last.hint else ''}`workbench ledger` tells the failures; the same command asks "
            "again for what is missing",
            kind="refused",
            fatal=True,
        )
    return found


def asker_for(
    teacher: Teacher,
    ledger: Ledger,
    config: Config,
    limits: Limits | None = None,
    make: Callable[..., Asker] = Asker,
    spent: Spent | None = None,
) -> Asker:
    """Who asks the config's teacher, without `limits` for new replies of `runtime.max_money` at most. `spent` is the account of
    those who share one."""
    runtime = config.runtime.of(config.teacher.model)
    ahead = AHEAD if isinstance(teacher, PostedTeacher) and not config.pool.teachers else 0.0
    concurrency = max(runtime.concurrency, teacher.at_once)
    return make(
        teacher,
        ledger,
        limits=limits or Limits(money=config.runtime.max_money, found=False),
        concurrency=concurrency,
        attempts=runtime.attempts,
        price=config.teacher.price,
        pace=Pace(
            concurrency,
            requests_a_minute=runtime.requests_a_minute,
            tokens_a_minute=runtime.tokens_a_minute,
            ahead=ahead,  # together with another's it might pass a cap
        )
        if not config.teacher.batch
        else Pace(concurrency),  # a minute's limits are for what is asked one by one
        constrained=config.teacher.asks_schema,
        top_logprobs=config.teacher.top_logprobs,
        spent=spent,
        copies=2 if runtime.hedge_s and config.teacher.base_url else 1,
    )


def label_request(labeler: Labeler, example: Example, config: Config, k: int = 0) -> Request:
    """The request for a label: greedy for k = 0, drawn at the sampling temperature for the others."""
    return Request(
        messages=labeler.messages(example),
        temperature=0.0 if k == 0 else config.sample.temperature,
        max_tokens=config.teacher.max_tokens,
        k=k,
        json_schema=labeler.schema,
        purpose="label",
    )


async def label_all(
    asker: Asker,
    labeler: Labeler,
    examples: Sequence[Example],
    config: Config,
    *,
    whole: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> list[Reply | None]:
    """A greedy label for each example, None where the teacher failed. Requests go out in the order of their prefixes. `whole`:
    None only where it refuses for good; raises TeacherError where an answer may yet be had, and always for a budget. `tick` is
    called behind each."""
    requests = [label_request(labeler, example, config) for example in examples]
    order = sorted(range(len(requests)), key=lambda i: [message.content for message in requests[i].messages])
    replies: list[Reply | None] = [None] * len(requests)

    async def one(place: int) -> None:
        try:
            replies[place] = (await asker.ask(requests[place])).reply
        except TeacherError as error:
            if error.fatal or error.kind == "budget" or (whole and error.kind in RETRIED):
                raise
        tick()

    await asyncio.gather(*(one(place) for place in order))
    return replies


def score_replies(output: Output, examples: Sequence[Example], texts: Sequence[str]) -> Table:
    return table_of(
        output, [(parsed(output, text), example.target) for example, text in zip(examples, texts, strict=True)]
    )


def right(output: Output, example: Example, reply: Reply | None) -> bool:
    value = parsed(output, reply.text) if reply is not None else None
    return value is not None and output.same(value, example.target)


def parsed(output: Output, text: str) -> object:
    """The value of a reply, None where it is no answer."""
    try:
        return output.parse(text)
    except ParseError:
        return None
