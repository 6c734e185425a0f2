"""The teachers of a run: `teacher` alone, or with those of `pool.teachers`, each asked for what its role is.

Who is asked first is said by the wish's source and its answer's group; where the one asked first gives no answer, the others
that stand in come in turn: `teacher`, then the pool's fallbacks. All share one account and its caps, each has its own lanes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

from workbench.config import Config
from workbench.errors import TeacherError
from workbench.ledger import Ledger
from workbench.outputs import Output
from workbench.stages.shots import asker_for, parsed
from workbench.teachers.asker import Answer, Asker, Limits, Spent
from workbench.teachers.build import build_teacher
from workbench.types import Request

Say = Callable[[str], None]


class Pool:
    """`askers` are in the config's order, `teacher`'s first. `make` makes one, where it is another than Asker. `say` is told
    once of each teacher that is dead while others stand in."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        limits: Limits,
        make: Callable[..., Asker] = Asker,
        say: Say | None = None,
    ) -> None:
        self.members = config.pool.asked.teachers
        self.spent, self._say = Spent(), say
        self.askers = [
            asker_for(
                build_teacher(teacher, config.runtime, ledger),
                ledger,
                config.model_copy(update={"teacher": teacher}),
                replace(limits),
                make,
                spent=self.spent,
            )
            for teacher in (config.teacher, *self.members)
        ]
        pairs = list(zip(self.askers[1:], self.members, strict=True))
        self._stand_in = [self.askers[0], *(asker for asker, member in pairs if member.fallback)]
        voting = [asker for asker, member in pairs if member.votes]
        self.voters = [self.askers[0], *voting] if voting else []
        self.by_group = any(member.groups for member in self.members)
        self._told: set[str] = set()

    def turn(self, source: str, group: str = "") -> "Turn":
        """Who is asked for such a wish."""
        mine = (a for a, member in zip(self.askers[1:], self.members, strict=True) if member.is_for(source, group))
        first = next(mine, self.askers[0])
        return Turn(self, [first, *(asker for asker in self._stand_in if asker is not first)])

    def asker(self, model: str) -> Asker:
        """The one who asks the teacher of this name."""
        return next(asker for asker in self.askers if asker.teacher.model == model)

    def dead(self, asker: Asker, error: TeacherError) -> None:
        if self._say is not None and asker.teacher.model not in self._told:
            self._told.add(asker.teacher.model)
            self._say(f"teacher {asker.teacher.model} is dead, others are asked in its place: {error}")

    @property
    def concurrency(self) -> int:
        return sum(asker.concurrency for asker in self.askers)

    @property
    def ended(self) -> str:
        """The budget that refused a request, in words; empty while none did."""
        return next((asker.ended for asker in self.askers if asker.ended), "")

    @property
    def waited_for(self) -> bool:
        """Whether what is under way is paid for, though nobody takes it."""
        return any(asker.teacher.keeper or not asker.teacher.at_once for asker in self.askers)

    def limit(self, limits: Limits) -> None:
        for asker in self.askers:
            asker.limits = replace(limits)

    async def prepare(self) -> None:
        for asker in self.askers:
            await asker.teacher.prepare()
        self.spent.started = time.monotonic()  # a model that was fetched and loaded took none of the minutes

    def resume(self) -> None:
        for asker in self.askers:
            asker.resume()

    async def aclose(self) -> None:
        for asker in self.askers:
            await asker.teacher.aclose()


class Turn:
    """Teachers in the order in which they are asked. Used as an asker is."""

    def __init__(self, pool: Pool, askers: Sequence[Asker]) -> None:
        self._pool, self.askers = pool, askers

    async def ask(self, request: Request, *, late: bool = False) -> Answer:
        """The first answer that comes. Raises TeacherError: a budget's at once, else the last teacher's."""
        *others, last = self.askers
        for asker in others:
            try:
                return await asker.ask(request, late=late)
            except TeacherError as error:
                if error.kind == "budget":
                    raise
                if error.fatal:
                    self._pool.dead(asker, error)
        return await last.ask(request, late=late)


class Ballot(NamedTuple):
    """One teacher's answer in a vote. `value` is None where its text is no answer."""

    answer: Answer
    value: Any


def ballot(output: Output, answer: Answer, text: str) -> Ballot:
    return Ballot(answer, parsed(output, text))


def elected(output: Output, ballots: Sequence[Ballot], electors: int) -> tuple[Ballot | None, int]:
    """The first ballot for the answer that more than half of the electors give, None where there is none; and how many are for
    the answer that most are for."""
    parties: list[list[Ballot]] = []
    for one in ballots:
        if one.value is not None:
            mine = next((party for party in parties if output.same(party[0].value, one.value)), None)
            parties.append([one]) if mine is None else mine.append(one)
    largest = max(parties, key=len, default=[])
    return (largest[0] if 2 * len(largest) > electors else None), len(largest)


def agreements(output: Output, ballots: Sequence[Ballot]) -> Iterator[tuple[str, str, bool]]:
    """Of each two teachers that answered, whether they say the same."""
    for a, b in combinations(sorted(ballots, key=lambda one: one.answer.teacher), 2):
        same = a.value is not None and b.value is not None and output.same(a.value, b.value)
        yield plain_name(a), plain_name(b), same


def plain_name(one: Ballot) -> str:
    """Without what tells a file's identity and engine."""
    return one.answer.teacher.partition(" ")[0]
