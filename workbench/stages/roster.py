"""Teachers on trial: each labels the same dev rows with the same few-shot block, and is judged by the task's validators.

What a teacher is worth for making rows is more than its score: how much of what it answers passes (yield), how much of that
is right (precision), and what a request costs in time and money.
"""

import asyncio
import math
from collections.abc import Sequence
from statistics import median

from workbench.config import Config
from workbench.declaration import Task
from workbench.judge import judge_cheap
from workbench.ledger import Ledger
from workbench.scoring import Score, plainly_better
from workbench.stages.shots import answers, asker_for, label_all, parsed, score_replies
from workbench.teachers.build import build_teacher, known_as
from workbench.teachers.prompts import Labeler
from workbench.types import Frozen


class Tried(Frozen):
    """One teacher's figures. Shares in percent; `seconds` is the median of a request as it was sent, beside others;
    `money` is of a thousand requests. `right`: row by row; an answer that did not come is wrong."""

    teacher: str
    licence: str
    rows: int
    unanswered: int
    exact: Score
    passing: float
    precision: float
    seconds: float
    tokens_in: float
    tokens_out: float
    money: float
    right: tuple[bool, ...]


def tried(task: Task, config: Config, ledger: Ledger, rows: int) -> Tried:
    """One teacher on the first `rows` dev rows; what the ledger holds is not asked again. Raises TeacherError."""
    return asyncio.run(_tried(task, config, ledger, rows))


async def _tried(task: Task, config: Config, ledger: Ledger, rows: int) -> Tried:
    mode = "group" if config.shots.mode == "auto" else config.shots.mode
    dev = task.examples("dev")[:rows]
    teacher = build_teacher(config.teacher, config.runtime, ledger)
    if not config.teacher.base_url:  # what runs here costs time alone
        free = config.teacher.model_copy(update={"price_in": 0.0, "price_out": 0.0})
        config = config.model_copy(update={"teacher": free})
    try:
        await teacher.prepare()
        asker = asker_for(teacher, ledger, config)
        replies = await label_all(asker, Labeler(task, task.examples("seed"), mode, config.shots), dev, config)
    finally:
        await teacher.aclose()
    answers(dev, replies, asker)
    texts = [reply.text if reply else "" for reply in replies]
    values = [parsed(task.output, text) for text in texts]
    right = [value is not None and task.output.same(value, row.target) for value, row in zip(values, dev, strict=True)]
    passes = [  # as an answer to a new input, whose target nobody knows
        judge_cheap(task, row.model_copy(update={"target": None}), text).outcome == "pass"
        for row, text in zip(dev, texts, strict=True)
    ]
    came = [reply for reply in replies if reply is not None]
    reads, writes = ([getattr(r.usage, name) for r in came] for name in ("prompt_tokens", "completion_tokens"))
    per_request = [sum(found) / max(1, len(came)) for found in (reads, writes)]
    return Tried(
        teacher=known_as(config.teacher),
        licence=teacher.licence,
        rows=len(dev),
        unanswered=len(dev) - len(came),
        exact=score_replies(task.output, dev, texts)["exact"],
        passing=100 * sum(passes) / max(1, len(dev)),
        precision=100 * sum(a and b for a, b in zip(passes, right, strict=True)) / max(1, sum(passes)),
        seconds=median([reply.seconds for reply in came]) if came and not config.teacher.batch else math.nan,
        tokens_in=per_request[0],
        tokens_out=per_request[1],
        money=sum(tokens * cost for tokens, cost in zip(per_request, asker.price, strict=True)) / 1e3,
        right=tuple(right),
    )


def recommended(found: Sequence[Tried], floor: float) -> tuple[Tried | None, str]:
    """The cheapest teacher that the best one is not plainly better than, and why; None where all are below the task's floor.

    Cheapest by money, then by time; what runs here costs no money.
    """
    able = [item for item in found if item.exact.value >= floor]
    if not able:
        return None, f"none reaches the task's floor of {floor:g} exact: take a larger teacher, or better seeds"
    best = max(able, key=lambda item: item.exact.value)
    near = [item for item in able if not plainly_better(best.right, item.right)]
    chosen = min(near, key=lambda item: (item.money, item.seconds))
    if chosen is best:
        return best, f"{best.teacher} is the best" + (", and none as good is cheaper" if len(near) > 1 else "")
    gain = "cheaper" if chosen.money < best.money else "faster"
    return chosen, f"{chosen.teacher} is {gain} than {best.teacher}, and not plainly worse"


def told(found: Sequence[Tried]) -> list[str]:
    """A table in lines."""
    wide = max(len(item.teacher) for item in found)
    lines = [
        f"{'teacher':{wide}}  {'exact %':>19}  {'passing %':>9}  {'right of these %':>16}  {'seconds':>7}"
        f"  {'tokens in':>9}  {'out':>5}  {'money / 1000':>12}  unanswered"
    ]
    for item in found:
        interval = f"{item.exact.value:.1f} ({item.exact.low:.1f} to {item.exact.high:.1f})"
        lines.append(
            f"{item.teacher:{wide}}  {interval:>19}  {item.passing:9.1f}  {item.precision:16.1f}  {item.seconds:7.2f}"
            f"  {item.tokens_in:9,.0f}  {item.tokens_out:5,.0f}  {item.money:12.4f}  {item.unanswered}"
        )
    return lines
