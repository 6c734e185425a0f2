"""Asking the teacher again: dear validators, put to work only on what the cheap ones let through."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from workbench.declaration import SecondLook, Task
from workbench.outputs import ParseError
from workbench.types import Check, Judged


@dataclass(frozen=True)
class RoundTrip:
    """Given the input alone, does the teacher give the same answer? `on="group"`: at least the same kind of answer.

    `when` limits it to answers that need it. A teacher that is often wrong refuses right rows too: what passes is cleaner
    and easier than what came in.
    """

    on: Literal["same", "group"] = "same"
    when: Callable[[Any], bool] | None = None
    name: str = "round_trip"

    async def judge_with(self, judged: Judged, task: Task, look: SecondLook) -> Check:
        if self.when is not None and not self.when(judged.value):
            return Check(validator=self.name, outcome="pass")
        text = await look.label(judged.example, 0)
        try:
            again = task.output.parse(text)
        except ParseError as error:
            return Check(validator=self.name, outcome="fail", reason=f"the second look is no answer: {error}")
        if self._agree(task, again, judged.value):
            return Check(validator=self.name, outcome="pass")
        return Check(validator=self.name, outcome="fail", reason=f"asked again, the teacher says {text}")

    def _agree(self, task: Task, a: Any, b: Any) -> bool:
        return task.output.same(a, b) if self.on == "same" else task.output.group(a) == task.output.group(b)


@dataclass(frozen=True)
class Vote:
    """Self-consistency: of `votes` answers drawn at temperature, at least `agree` must be the candidate's. `when` limits it to
    answers that need it."""

    votes: int = 3
    agree: int = 2
    when: Callable[[Any], bool] | None = None
    name: str = "vote"

    async def judge_with(self, judged: Judged, task: Task, look: SecondLook) -> Check:
        if self.when is not None and not self.when(judged.value):
            return Check(validator=self.name, outcome="pass")
        same = 0
        for k in range(1, self.votes + 1):
            try:
                again = task.output.parse(await look.label(judged.example, k))
            except ParseError:
                continue  # a vote that is no answer is a vote against
            same += task.output.same(again, judged.value)
        if same >= self.agree:
            return Check(validator=self.name, outcome="pass")
        return Check(validator=self.name, outcome="fail", reason=f"{same} of {self.votes} votes are for this answer")


def round_trip(on: Literal["same", "group"] = "same", when: Callable[[Any], bool] | None = None) -> RoundTrip:
    return RoundTrip(on, when)


def vote(votes: int = 3, agree: int = 2, when: Callable[[Any], bool] | None = None) -> Vote:
    return Vote(votes, agree, when)
