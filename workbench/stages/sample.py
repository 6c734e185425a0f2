"""Generate and judge in one loop: ask again only where nothing passed yet, stop on enough, on the budget, or when hopeless.

A wish is an example that still needs a passing candidate: an answer that wants an input (inverse), an input that wants an
answer (forward, corpus). Many are under way at a time, but what came of them is looked at in the wishes' order: neither the
stopping rules nor the order of the rows depend on which reply came first.
"""

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from pydantic import ValidationError

from workbench.declaration import Task
from workbench.errors import TeacherError
from workbench.judge import Bench, bench_for, judge
from workbench.machine import cores
from workbench.sources.writer import InputWriter
from workbench.stages.context import Context, jsonl, read_json, write_json
from workbench.stages.gate import Leaks
from workbench.stages.shots import asker_for, label_request
from workbench.stages.wishes import Wish, Wishes, corpus_wishes, forward_wishes, inverse_wishes
from workbench.teachers.asker import Asker, Limits
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler
from workbench.types import Candidate, Check, Example, Frozen, Request, Verdict

Maker = Callable[[Context, Asker, Sequence[Example]], Coroutine[Any, Any, Wishes]]
TOLD = 128  # wishes between two words on how it goes
ENOUGH, ALL_TRIED = "enough", "all wishes were tried"  # how sampling ends where no budget and no yield ends it


class Judgement(Frozen):
    """One line of candidates.jsonl."""

    candidate: Candidate
    verdict: Verdict
    teacher: str
    licence: str


@dataclass
class Granted:
    """What came of a wish: its candidates, how many of its requests got no answer, and the reason where a budget ended it."""

    found: list[Judgement] = field(default_factory=list)
    given_up: int = 0
    reached: str = ""

    @property
    def met(self) -> bool:
        return any(item.verdict.outcome == "pass" for item in self.found)


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
    """Writes candidates.jsonl (each with its verdict), funnel.json, and leaks.json (the held-out rows that inputs of the corpus
    were too like, which were not shown to the teacher). Raises TeacherError where the teacher is dead."""
    leaks: Leaks = {}
    funnel: dict[str, Any] = {"stopped": "the task's sources ask nothing of a teacher", "wishes": 0}
    with jsonl(context.out / "candidates.jsonl") as write:
        if {"inverse", "forward", "corpus"} & set(context.task.sources):
            funnel = asyncio.run(_sample(context, write, leaks))
    write_json(context.out / "funnel.json", funnel)
    write_json(context.out / "leaks.json", leaks)


async def _sample(context: Context, write: Callable[[Judgement], None], leaks: Leaks) -> dict[str, Any]:
    config = context.config.sample
    teacher = build_teacher(context.config.teacher, context.config.runtime, context.ledger)
    await teacher.prepare()
    limits = Limits(config.max_calls, config.max_tokens, config.max_money, config.max_minutes)
    asker = asker_for(teacher, context.ledger, context.config, limits)
    mode = _mode(context)
    seeds = context.examples("seed")
    teller = Teller(asker, Labeler(context.task, seeds, mode, context.config.shots), context)
    stopped = ""
    bench = bench_for(context.task, cores())
    loop = Loop(context, asker, teller, InputWriter(context.task, seeds), write, bench)
    gc.freeze()  # what is loaded by now, dspy above all, is not looked through again and again
    try:
        for make in _makers(
            context.task, leaks
        ):  # in turn: one that the minutes do not reach asks nothing for its wishes
            stopped = await loop.walk(await make(context, asker, seeds))
            if stopped:
                break
        stopped = stopped or asker.ended or loop.tried  # it may have ended while the wishes were made
    except TeacherError as error:
        if error.kind != "budget":
            raise
        stopped = str(error)
    finally:
        gc.unfreeze()
        if bench is not None:
            bench.close()
        await teacher.aclose()
    if leaks:
        context.say(f"sample: what is too like {len(leaks)} dev or test rows was kept from the teacher")
    outcomes, spent = loop.outcomes, asker.spent
    context.say(
        f"sample: {outcomes['pass']} of {loop.judged} candidates passed; stopped: {stopped}; "
        f"{spent.calls} calls, {spent.sent} of them sent now, {spent.failed} given up"
    )
    return {
        "stopped": stopped,
        "wishes": loop.wished,
        "candidates": loop.judged,
        "passed": outcomes["pass"],
        "failed": outcomes["fail"],
        "errors": outcomes["error"],
        "unmet": loop.unmet,
        "given_up": loop.given_up,
        "calls": spent.calls,  # what was sent now is not told here: a run that was killed makes the same artifact
        "tokens": spent.tokens,
        "money": round(spent.money, 6),
    }


def _mode(context: Context) -> str:
    return str(read_json(context.inputs["shots"] / "shots.json")["mode"])


def _makers(task: Task, leaks: Leaks) -> list[Maker]:
    """Of the wishes, a source each, in the task's order. A corpus is read here, before anything is asked. Raises DataError."""
    makers: dict[str, Maker] = {"inverse": inverse_wishes, "forward": forward_wishes}
    if "corpus" in task.sources:
        makers["corpus"] = partial(corpus_wishes, corpus=task.corpus(), leaks=leaks)
    return [makers[source] for source in task.sources if source in makers]


async def _given_up(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Loop:
    """The walk over the wishes. Candidates go to `write` as they are judged: however many there are, a few are in memory."""

    context: Context
    asker: Asker
    teller: Teller
    writer: InputWriter
    write: Callable[[Judgement], None]
    bench: Bench | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    wished: int = 0
    unmet: int = 0  # wishes that were tried to the end without a passing candidate
    given_up: int = 0  # requests that got no answer

    @property
    def judged(self) -> int:
        return self.outcomes.total()

    @property
    def tried(self) -> str:
        """Where all wishes were: what that came to."""
        return f"{ALL_TRIED}, {self.unmet} found no passing candidate" if self.unmet else ENOUGH

    async def walk(self, wishes: Wishes) -> str:
        """Writes in the wishes' order; gives the reason for stopping, empty where all were granted."""
        config = self.context.config.sample
        self.wished += wishes.about
        ahead: deque[asyncio.Task[Granted]] = deque()
        done = 0
        try:
            while True:
                ahead += [
                    asyncio.create_task(self.grant(wish)) for wish in islice(wishes.each, self.ahead - len(ahead))
                ]
                if not ahead:
                    self.wished += done - wishes.about  # some were passed over
                    return ""
                granted = await ahead.popleft()
                self._take(granted)
                if granted.reached:  # the others under way come to their end too, and what they were given is not lost
                    for more in await asyncio.gather(*ahead):
                        self._take(more)
                    return granted.reached
                done += 1
                if done % TOLD == 0 or done == wishes.about:
                    self.context.say(
                        f"sample: {done}/{wishes.about} {wishes.source} wishes, "
                        f"{self.outcomes['pass']} passed of {self.judged} candidates"
                    )
                passed, tried = self.outcomes["pass"], self.judged + self.given_up
                if tried >= config.hopeless_after and passed < config.hopeless_yield * tried:
                    teacher = self.asker.teacher
                    # what is under way at an API is paid for: into the ledger
                    if teacher.keeper or not teacher.at_once:
                        await asyncio.gather(*ahead)
                    unanswered = f", {self.given_up} requests got no answer" if self.given_up else ""
                    return f"hopeless: {passed} of {self.judged} candidates passed{unanswered}"
        finally:
            await _given_up(ahead)

    def _take(self, granted: Granted) -> None:
        for item in granted.found:
            self.write(item)
            self.outcomes[item.verdict.outcome] += 1
        self.given_up += granted.given_up
        self.unmet += not granted.met and not granted.reached

    @property
    def ahead(self) -> int:
        """How many wishes are under way: as many as the asker sends at once, and as many that wait, so that it never does."""
        return 2 * self.asker.concurrency

    async def grant(self, wish: Wish) -> Granted:
        """Candidates for one wish until one passes."""
        granted = Granted()
        for k in range(self.context.config.sample.candidates):
            try:
                item = await self.attempt(wish, k)
            except TeacherError as error:
                if error.kind == "budget":
                    granted.reached = str(error)
                    break
                if error.fatal:
                    raise
                granted.given_up += 1  # why, is in the ledger's failures
                continue
            granted.found.append(item)
            if granted.met:
                break
        return granted

    async def attempt(self, wish: Wish, k: int) -> Judgement:
        config = self.context.config
        if wish.example is not None:
            request = label_request(self.teller.labeler, wish.example, config, k)
        else:
            request = Request(
                messages=self.writer.messages(wish.answer, wish.style, wish.given),
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
            verdict = await judge(self.context.task, example, text, self.teller, self.bench)
        return Judgement(
            candidate=candidate, verdict=verdict, teacher=self.asker.teacher.model, licence=self.asker.teacher.licence
        )

    def _pair(self, wish: Wish, reply: str) -> tuple[Example, str]:
        """An inverse wish and what was written for it: the example, and its answer as text."""
        text = self.context.task.output.dump(wish.answer)
        return example_from(self.context.task, wish, self.writer.read(reply)), text


def example_from(task: Task, wish: Wish, written: str) -> Example:
    """An example of what the teacher wrote; with an empty input where it does not fit the task's input model."""
    try:
        input_ = {**wish.given, task.written: written}
        return task.example(input_, split="new", target=wish.answer, source=wish.source)
    except ValidationError:
        return Example(id="", input={}, target=wish.answer, split="new", source=wish.source)
