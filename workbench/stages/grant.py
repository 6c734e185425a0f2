"""One wish granted: its candidates are asked of the teacher, and judged, until one passes."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import TeacherError
from workbench.judge import Bench, judge
from workbench.sources.writer import InputWriter
from workbench.stages.shots import label_request
from workbench.stages.wishes import Wish
from workbench.teachers.asker import Asker
from workbench.teachers.prompts import Labeler
from workbench.types import Candidate, Check, Example, Judgement, Request, Verdict


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
    config: Config

    async def label(self, example: Example, k: int) -> str:
        _, reply = await self.asker.ask(label_request(self.labeler, example, self.config, k), late=True)
        return reply.text


class Granter:
    """Grants wishes in this process. `seeds` are shown to the teacher in the few-shot block `mode`."""

    def __init__(
        self, task: Task, config: Config, asker: Asker, seeds: list[Example], mode: str, bench: Bench | None
    ) -> None:
        self.task, self.config, self.asker, self.bench = task, config, asker, bench
        self.labeler = Labeler(task, seeds, mode, config.shots)
        self.teller = Teller(asker, self.labeler, config)
        self.writer = InputWriter(task, seeds)

    @property
    def ahead(self) -> int:
        """How many wishes are under way: as many as the asker sends at once, and as many that wait, so that it never does."""
        return 2 * self.asker.concurrency

    async def grant(self, wish: Wish) -> Granted:
        """Candidates for one wish until one passes. Raises TeacherError where the teacher is dead."""
        granted = Granted()
        for k in range(self.config.sample.candidates):
            try:
                item = await self._attempt(wish, k)
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

    async def _attempt(self, wish: Wish, k: int) -> Judgement:
        call, reply = await self.asker.ask(self.request(wish, k))
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
            verdict = await judge(self.task, example, text, self.teller, self.bench)
        teacher = self.asker.teacher
        return Judgement(candidate=candidate, verdict=verdict, teacher=teacher.model, licence=teacher.licence)

    def _pair(self, wish: Wish, reply: str) -> tuple[Example, str]:
        """An inverse wish and what was written for it: the example, and its answer as text."""
        return _example(self.task, wish, self.writer.read(reply)), self.task.output.dump(wish.answer)

    async def aclose(self) -> None:
        if self.bench is not None:
            self.bench.close()


def _example(task: Task, wish: Wish, written: str) -> Example:
    """An example of what the teacher wrote; with an empty input where it does not fit the task's input model."""
    try:
        input_: dict[str, Any] = {**wish.given, task.written: written}
        return task.example(input_, split="new", target=wish.answer, source=wish.source)
    except ValidationError:
        return Example(id="", input={}, target=wish.answer, split="new", source=wish.source)
