"""A run's stored candidates before a task's cheap validators as they are now: what a change of theirs changes, without a call.

Dear validators and the vote of several teachers are not asked: a candidate that one of them refused counts as it did, if
the cheap ones let it by still.
The file is cut at line ends and judged by several processes; only counts and a few cases come back.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from workbench.declaration import Task
from workbench.judge import judge_cheap, processes, seated
from workbench.machine import cores
from workbench.stages.gate import text_of
from workbench.stages.grant import VOTED
from workbench.types import Judgement, Verdict

CASES = 3  # of each change, shown
PART_BYTES = 2**20
BEFOREHAND = ("finished", "input")  # what the sampling itself refuses, before any validator

Change = tuple[str, str]  # what the verdict was, and is: `pass`, or the name of the validator that ended it


@dataclass
class Rejudged:
    """`counts` holds every candidate; `cases` the first few of each real change: input, answer, reason."""

    counts: Counter[Change] = field(default_factory=Counter)
    cases: dict[Change, list[tuple[str, str, str]]] = field(default_factory=dict)

    def add(self, other: "Rejudged") -> None:
        self.counts += other.counts
        for change, cases in other.cases.items():
            kept = self.cases.setdefault(change, [])
            kept += cases[: CASES - len(kept)]

    @property
    def changed(self) -> Counter[Change]:
        return Counter({change: count for change, count in self.counts.items() if change[0] != change[1]})


def rejudge(task: Task, candidates: Path, jobs: int = 0) -> Rejudged:
    """`candidates` is a run's candidates.jsonl."""
    found, parts = Rejudged(), list(_parts(candidates))
    jobs = min(jobs or cores(), max(1, len(parts)))
    with processes(task, jobs) as pool:
        for part in pool.map(_judged, [candidates] * len(parts), *zip(*parts, strict=True)) if parts else ():
            found.add(part)
    return found


def told(found: Rejudged) -> Iterator[str]:
    """The lines a user reads."""
    total, changed = found.counts.total(), found.changed
    passed = sum(count for (_, now), count in found.counts.items() if now == "pass")
    yield f"{total:,} candidates judged again, no teacher asked: {passed:,} pass, {changed.total():,} are judged otherwise"
    for (was, now), count in changed.most_common():
        yield f"\n{count:,} were {_outcome(was)} and are {_outcome(now)}"
        for said, answer, reason in found.cases[was, now]:
            yield f"    {said}\n      {answer}" + (f"\n      {reason}" if reason else "")


def _outcome(name: str) -> str:
    return "let by" if name == "pass" else f"refused by {name}"


def _parts(path: Path) -> Iterator[tuple[int, int]]:
    """Where the file is cut: (from, to) in bytes, each a number of whole lines."""
    size, start = path.stat().st_size, 0
    with path.open("rb") as handle:
        while start < size:
            handle.seek(min(size, start + PART_BYTES))
            handle.readline()
            yield start, handle.tell()
            start = handle.tell()


def _judged(path: Path, start: int, end: int) -> Rejudged:
    """In a process of its own."""
    task = seated()
    dear, found = {VOTED, *(validator.name for validator in task.dear)}, Rejudged()
    with path.open("rb") as handle:
        handle.seek(start)
        lines = handle.read(end - start).splitlines()
    for line in lines:
        item = Judgement.model_validate_json(line)
        candidate = item.candidate
        was = _end(item.verdict)
        verdict = judge_cheap(task, candidate.example, candidate.text)
        now = was if was in BEFOREHAND or (_end(verdict) == "pass" and was in dear) else _end(verdict)
        change = (was, now)
        found.counts[change] += 1
        if was != now and len(found.cases.setdefault(change, [])) < CASES:
            found.cases[change].append((text_of(task, candidate.example), candidate.text, verdict.reason))
    return found


def _end(verdict: Verdict) -> str:
    return "pass" if verdict.outcome == "pass" else verdict.checks[-1].validator
