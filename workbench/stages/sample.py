"""Generate and judge in one loop: ask again only where nothing passed yet, stop on enough, on the budget, or when hopeless.

A wish is an example that still needs a passing candidate: an answer that wants an input (inverse), an input that wants an
answer (forward, corpus). Wishes are handled in rounds, so that the stopping rules see what came of the last one and the
order of the rows does not depend on which reply came first.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from workbench.errors import TeacherError
from workbench.judge import judge
from workbench.sources.writer import InputWriter
from workbench.stages.context import Context, read_json, write_json, write_jsonl
from workbench.stages.shots import asker_for, label_request
from workbench.stages.wishes import Wish, corpus_wishes, forward_wishes, inverse_wishes
from workbench.task import Task
from workbench.teachers.asker import Asker, Limits
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler
from workbench.types import Candidate, Check, Example, Frozen, Request, Verdict

ROUND = 128  # wishes


class Judgement(Frozen):
    """One line of candidates.jsonl."""

    candidate: Candidate
    verdict: Verdict
    teacher: str
    licence: str


@dataclass
class Teller:
    """The teacher as dear validators see it. What is written when the minutes are up is still judged."""

    asker: Asker
    labeler: Labeler
    context: Context

    async def label(self, example: Example, k: int) -> str:
        _, reply = await self.asker.ask(label_request(self.labeler, example, self.context.config, k), late=True)
        return reply.text


def run(context: Context) -> None:
    """Writes candidates.jsonl (each with its verdict) and funnel.json. Raises TeacherError where the teacher is dead."""
    judged: list[Judgement] = []
    funnel: dict[str, Any] = {"stopped": "the task's sources ask nothing of a teacher", "wishes": 0}
    if {"inverse", "forward", "corpus"} & set(context.task.sources):
        judged, funnel = asyncio.run(_sample(context))
    write_jsonl(context.out / "candidates.jsonl", judged)
    write_json(context.out / "funnel.json", funnel)


async def _sample(context: Context) -> tuple[list[Judgement], dict[str, Any]]:
    config = context.config.sample
    teacher = build_teacher(context.config.teacher, context.config.runtime)
    await teacher.prepare()
    limits = Limits(config.max_calls, config.max_tokens, config.max_money, config.max_minutes)
    asker = asker_for(context, teacher, limits)
    mode = _mode(context)
    seeds = context.examples("seed")
    teller = Teller(asker, Labeler(context.task, seeds, mode, context.config.shots), context)
    judged: list[Judgement] = []
    stopped = "enough"
    wishes: list[Wish] = []
    try:
        wishes = await _wishes(context, asker, seeds)
        loop = Loop(context, asker, teller, InputWriter(context.task, seeds))
        stopped = await loop.walk(wishes, judged)
        if stopped == "enough" and asker.ended:  # it ended while the wishes were made
            stopped = asker.ended
    except TeacherError as error:
        if error.kind != "budget":
            raise
        stopped = str(error)
    finally:
        await teacher.aclose()
    outcomes = Counter(item.verdict.outcome for item in judged)
    spent = asker.spent
    context.say(
        f"sample: {outcomes['pass']} of {len(judged)} candidates passed; stopped: {stopped}; "
        f"{spent.calls} calls, {spent.sent} of them sent now, {spent.failed} given up"
    )
    return judged, {
        "stopped": stopped,
        "wishes": len(wishes),
        "candidates": len(judged),
        "passed": outcomes["pass"],
        "failed": outcomes["fail"],
        "errors": outcomes["error"],
        "calls": spent.calls,  # what was sent now is not told here: a run that was killed makes the same artifact
        "tokens": spent.tokens,
        "money": round(spent.money, 6),
    }


def _mode(context: Context) -> str:
    return str(read_json(context.inputs["shots"] / "shots.json")["mode"])


async def _wishes(context: Context, asker: Asker, seeds: Sequence[Example]) -> list[Wish]:
    makers: dict[str, Callable[[Context, Asker, Sequence[Example]], Any]] = {
        "inverse": inverse_wishes,
        "forward": forward_wishes,
        "corpus": corpus_wishes,
    }
    wishes: list[Wish] = []
    for source in context.task.sources:
        if source in makers:
            wishes += await makers[source](context, asker, seeds)
    return wishes


@dataclass
class Loop:
    """The walk over the wishes, round by round."""

    context: Context
    asker: Asker
    teller: Teller
    writer: InputWriter

    async def walk(self, wishes: Sequence[Wish], judged: list[Judgement]) -> str:
        """Appends to `judged` in the wishes' order; gives the reason for stopping."""
        config = self.context.config.sample
        for start in range(0, len(wishes), ROUND):
            found = await asyncio.gather(*(self.grant(wish) for wish in wishes[start : start + ROUND]))
            judged += [item for items, _ in found for item in items]
            reached = next((reason for _, reason in found if reason), "")
            if reached:
                return reached
            passed = sum(item.verdict.outcome == "pass" for item in judged)
            self.context.say(
                f"sample: {min(start + ROUND, len(wishes))}/{len(wishes)} wishes, {passed} passed of {len(judged)} candidates"
            )
            if len(judged) >= config.hopeless_after and passed < config.hopeless_yield * len(judged):
                return f"hopeless: {passed} of {len(judged)} candidates passed"
        return "enough"

    async def grant(self, wish: Wish) -> tuple[list[Judgement], str]:
        """Candidates for one wish until one passes; and, when the budget ended it, the reason."""
        found: list[Judgement] = []
        for k in range(self.context.config.sample.candidates):
            try:
                item = await self.attempt(wish, k)
            except TeacherError as error:
                if error.kind == "budget":
                    return found, str(error)
                if error.fatal:
                    raise
                continue  # told in the ledger's failures and counted by the asker
            found.append(item)
            if item.verdict.outcome == "pass":
                break
        return found, ""

    async def attempt(self, wish: Wish, k: int) -> Judgement:
        config = self.context.config
        if wish.example is not None:
            request = label_request(self.teller.labeler, wish.example, config, k)
        else:
            request = Request(
                messages=self.writer.messages(wish.answer, wish.style),
                temperature=config.sample.temperature,
                max_tokens=200,
                k=k,
                purpose="write",
            )
        call, reply = await self.asker.ask(request)
        example, text = (wish.example, reply.text) if wish.example else self._pair(wish, reply.text)
        sure = reply.logprob if wish.example else None
        candidate = Candidate(example=example, text=text, call=call, source=wish.source, logprob=sure)
        if reply.finish != "stop":
            check = Check(validator="finished", outcome="fail", reason=f"the teacher's reply ended by {reply.finish}")
            verdict = Verdict(outcome="fail", checks=(check,))
        elif not example.input:
            check = Check(validator="input", outcome="fail", reason="what the teacher wrote is no input of the task")
            verdict = Verdict(outcome="fail", checks=(check,))
        else:
            verdict = await judge(self.context.task, example, text, self.teller)
        return Judgement(
            candidate=candidate, verdict=verdict, teacher=self.asker.teacher.model, licence=self.asker.teacher.licence
        )

    def _pair(self, wish: Wish, reply: str) -> tuple[Example, str]:
        """An inverse wish and what was written for it: the example, and its answer as text."""
        text = self.context.task.output.dump(wish.answer)
        return example_from(self.context.task, self.writer.read(reply), wish.answer, wish.source), text


def example_from(task: Task, written: str, answer: Any, source: str) -> Example:
    """An example of what the teacher wrote; with an empty input where it does not fit the task's input model."""
    field = next(iter(task.prompt.input.model_fields))
    try:
        return task.example({field: written}, split="new", target=answer, source=source)
    except ValidationError:
        return Example(id="", input={}, target=answer, split="new", source=source)
