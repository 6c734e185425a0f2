"""One wish granted: its candidates are asked of a teacher, and judged, until one passes; where teachers vote, until one is
elected too."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import TeacherError
from workbench.judge import Bench, judge
from workbench.sources.writer import InputWriter
from workbench.stages.pool import Ballot, Pool, Turn, agreements, ballot, elected, plain_name
from workbench.stages.shots import label_request, tried
from workbench.stages.wishes import Wish
from workbench.teachers.asker import Answer, Asker
from workbench.teachers.prompts import Labeler
from workbench.types import Candidate, Check, Example, Judgement, Request, Verdict

VOTED = "teachers"  # what the vote is called among the checks


@dataclass
class Granted:
    """What came of a wish: its candidates, how many of its requests got no answer, and the reason where a budget ended it.
    `agreed` counts, of each two teachers that voted, whether they said the same."""

    found: list[Judgement] = field(default_factory=list)
    given_up: int = 0
    reached: str = ""
    agreed: Counter[tuple[str, str, bool]] = field(default_factory=Counter)

    @property
    def met(self) -> bool:
        return any(item.verdict.outcome == "pass" for item in self.found)


@dataclass
class Teller:
    """The teacher as dear validators see it. What is written when the minutes are up is still judged."""

    turn: Turn
    labeler: Labeler
    config: Config

    async def label(self, example: Example, k: int) -> str:
        answer = await self.turn.ask(label_request(self.labeler, example, self.config, k), late=True)
        return answer.reply.text


class Granter:
    """Grants wishes in this process. `seeds` are shown to the teacher in the few-shot block `mode`."""

    def __init__(
        self, task: Task, config: Config, pool: Pool, seeds: list[Example], mode: str, bench: Bench | None
    ) -> None:
        self.task, self.config, self.pool, self.bench = task, config, pool, bench
        self.labeler = Labeler(task, seeds, mode, config.shots)
        cheapest = tried(config)[0]  # will do to see what the teacher makes of an input that it wrote itself
        self.looker = self.labeler if mode == cheapest else Labeler(task, seeds, cheapest, config.shots)
        self.writer = InputWriter(task, seeds)

    @property
    def ahead(self) -> int:
        """How many wishes are under way: as many as the askers send at once, and as many that wait, so that they never do."""
        return 2 * self.pool.concurrency

    async def grant(self, wish: Wish) -> Granted:
        """Candidates for one wish until one passes. Raises TeacherError where the teacher is dead."""
        granted = Granted()
        for k in range(self.config.sample.candidates):
            try:
                item = await self._attempt(wish, k, granted)
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

    def turn(self, wish: Wish) -> Turn:
        """Who is asked for it."""
        if not self.pool.by_group:
            group = ""
        elif wish.example is not None:
            group = self.labeler.group(wish.example)
        else:
            group = self.task.output.group(wish.answer)
        return self.pool.turn(wish.source, group)

    def request(self, wish: Wish, k: int) -> Request:
        """What is asked for a wish, for the `k`th time."""
        if wish.example is not None:
            return label_request(self.labeler, wish.example, self.config, k)
        return Request(
            messages=self.writer.messages(wish.answer, wish.style, wish.given),
            temperature=self.config.sample.temperature,
            max_tokens=200,
            k=k,
            purpose="write",
        )

    async def _attempt(self, wish: Wish, k: int, granted: Granted) -> Judgement:
        turn = self.turn(wish)
        answer = await turn.ask(self.request(wish, k))
        example, text = (wish.example, answer.reply.text) if wish.example else self._pair(wish, answer.reply.text)
        if not example.input:
            check = Check(validator="input", outcome="fail", reason="what the teacher wrote is no input of the task")
            return _judgement(wish, example, text, answer, Verdict(outcome="fail", checks=(check,)))
        item = await self._judged(wish, example, text, answer, turn)
        if item.verdict.outcome != "pass" or not self.pool.voters:
            return item
        others = [asker for asker in self.pool.voters if asker.teacher.model != answer.teacher]
        ballots = await self._ballots(example, ballot(self.task.output, answer, text), others, k)
        granted.agreed.update(agreements(self.task.output, ballots))
        chosen, votes = elected(self.task.output, ballots, 1 + len(others))
        said = f"{votes} of {1 + len(others)} teachers agree"
        if chosen is None or (wish.example is None and chosen is not ballots[0]):
            told = "".join(f"; {plain_name(one)}: {one.answer.reply.text}" for one in ballots[1:])
            return _with(item, Check(validator=VOTED, outcome="fail", reason=said + told))
        if chosen is not ballots[0]:
            its_own = Turn(self.pool, [self.pool.asker(chosen.answer.teacher)])  # a second look is not another's
            item = await self._judged(wish, example, chosen.answer.reply.text, chosen.answer, its_own)
        return _with(item, Check(validator=VOTED, outcome="pass", reason=said))

    async def _judged(self, wish: Wish, example: Example, text: str, answer: Answer, turn: Turn) -> Judgement:
        if answer.reply.finish != "stop":
            reason = f"the teacher's reply ended by {answer.reply.finish}"
            verdict = Verdict(outcome="fail", checks=(Check(validator="finished", outcome="fail", reason=reason),))
        else:
            labeler = self.labeler if wish.example is not None else self.looker
            verdict = await judge(self.task, example, text, Teller(turn, labeler, self.config), self.bench)
        return _judgement(wish, example, text, answer, verdict)

    async def _ballots(self, example: Example, own: Ballot, others: list[Asker], k: int) -> list[Ballot]:
        """Its own, and those of the others who give one. Raises TeacherError for a budget."""
        request = label_request(self.labeler, example, self.config, k)

        async def asked(asker: Asker) -> Ballot | None:
            try:
                answer = await asker.ask(request, late=True)
            except TeacherError as error:
                if error.kind == "budget":
                    raise
                if error.fatal:
                    self.pool.dead(asker, error)
                return None
            return ballot(self.task.output, answer, answer.reply.text)

        return [own, *(one for one in await asyncio.gather(*map(asked, others)) if one is not None)]

    def _pair(self, wish: Wish, reply: str) -> tuple[Example, str]:
        """An inverse wish and what was written for it: the example, and its answer as text."""
        return _example(self.task, wish, self.writer.read(reply)), self.task.output.dump(wish.answer)

    async def aclose(self) -> None:
        if self.bench is not None:
            self.bench.close()


def _judgement(wish: Wish, example: Example, text: str, answer: Answer, verdict: Verdict) -> Judgement:
    """`example` and `text` are what came of the answer: it is the input that was written, or the answer itself."""
    sure = answer.reply.logprob if wish.example else None
    candidate = Candidate(example=example, text=text, call=answer.call, source=wish.source, logprob=sure)
    return Judgement(candidate=candidate, verdict=verdict, teacher=answer.teacher, licence=answer.licence)


def _with(item: Judgement, check: Check) -> Judgement:
    """Judged further. What did not pass stays as it is."""
    if item.verdict.outcome != "pass":
        return item
    verdict = Verdict(outcome=check.outcome, checks=(*item.verdict.checks, check))
    return item.model_copy(update={"verdict": verdict})


def _example(task: Task, wish: Wish, written: str) -> Example:
    """An example of what the teacher wrote; with an empty input where it does not fit the task's input model."""
    try:
        input_: dict[str, Any] = {**wish.given, task.written: written}
        return task.example(input_, split="new", target=wish.answer, source=wish.source)
    except ValidationError:
        return Example(id="", input={}, target=wish.answer, split="new", source=wish.source)
