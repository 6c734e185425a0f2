"""What can be seen of a task before anything is judged: rows that cannot be read or that contradict each other, prompts that
cannot be filled in, rules for what no answer has. And notes: what a task may well have, and its author should know.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from workbench.declaration import Task
from workbench.errors import DataError
from workbench.outputs import Calls
from workbench.types import SPLITS, Example, Frozen, Outcome, Split

FEW = 50  # rows of a file, to start with


class Problem(Frozen):
    """What keeps a task from passing: `error` is a validator's crash, `fail` a wrong refusal, `pass` a wrong pass."""

    where: str  # a split, `probe 2`, `mutant` or a validator's name
    input: str
    validator: str
    outcome: Outcome
    reason: str


class Seen(NamedTuple):
    """`rows` are the first of those with one input."""

    rows: dict[Split, list[Example]]
    corpus: Sequence[Example]
    problems: list[Problem]
    notes: list[str]


def inspect(task: Task) -> Seen:
    """Raises nothing that is a fault of the task."""
    problems: list[Problem] = []
    notes: list[str] = []
    rows: dict[Split, list[Example]] = {}
    for split in SPLITS:
        rows[split] = _first_of_each(task, _read(partial(task.rows, split), split, problems), problems, notes)
    corpus = _read(task.corpus, "corpus", problems) if "corpus" in task.sources else []
    problems += _in_two_splits(rows) + _groups_in_two_splits(rows)
    for where, found in (*rows.items(), ("corpus", corpus)):
        _prompts(task, where, found, problems, notes)
    problems += _unmatched(task)
    notes += _notes(task, rows)
    return Seen(rows, corpus, problems, notes)


def text_of(row: Example) -> str:
    return " ".join(str(value) for value in row.input.values() if value is not None)


def _at_fault(where: str, reason: str, row: Example | None = None) -> Problem:
    return Problem(where=where, input=text_of(row) if row else "", validator="data", outcome="fail", reason=reason)


def _read(rows: Callable[[], Sequence[Example]], where: str, problems: list[Problem]) -> Sequence[Example]:
    try:
        return rows()
    except DataError as error:
        problems.append(_at_fault(where, told(error)))
        return []


def told(error: DataError) -> str:
    """With its hint, on a line of its own where the error has several."""
    between = "\n  " if "\n" in str(error) else "; "
    return f"{error}{between}{error.hint}" if error.hint else str(error)


def _first_of_each(task: Task, rows: Sequence[Example], problems: list[Problem], notes: list[str]) -> list[Example]:
    first: dict[str, Example] = {}
    again: list[Example] = []
    for row in rows:
        kept = first.setdefault(row.id, row)
        if kept is row:
            continue
        if task.output.same(kept.target, row.target):
            again.append(row)
        else:
            file = task.data.files[row.split]
            both = " and ".join(task.output.dump(each.target) for each in (kept, row))
            problems.append(_at_fault(row.split, f"stands in {file} with two targets: {both}", row))
    if again:
        file = task.data.files[again[0].split]
        notes.append(
            f"{file}: rows that stand there already, and do not count: {len(again)}, first {text_of(again[0])!r}"
        )
    return list(first.values())


def _in_two_splits(rows: Mapping[Split, Sequence[Example]]) -> list[Problem]:
    first: dict[str, Split] = {}
    return [
        _at_fault(split, f"is a {first[row.id]} row too: take it out of one of the two files", row)
        for split, found in rows.items()
        for row in found
        if first.setdefault(row.id, split) != split
    ]


def _groups_in_two_splits(rows: Mapping[Split, Sequence[Example]]) -> list[Problem]:
    first: dict[str, Split] = {}
    return [
        _at_fault(
            split, f"is of the group {row.group!r}, and so are {first[row.group]} rows: keep them in one file", row
        )
        for split, found in rows.items()
        for row in found
        if row.group and first.setdefault(row.group, split) != split
    ]


def _prompts(task: Task, where: str, rows: Sequence[Example], problems: list[Problem], notes: list[str]) -> None:
    """Fills in the student's prompt for each row; the first that will not go, and the first with a None in it, are told."""
    first: dict[str, tuple[Example, str]] = {}
    count: Counter[str] = Counter()
    for row in rows:
        null = next((name for name in task.prompt.named if row.input.get(name, "") is None), "")
        try:
            task.student_prompt(row.input)
            kind, said = "null", f"the student reads None where {null} is null" if null else ""
        except DataError as error:
            kind, said = "broken", str(error)
        if said:
            first.setdefault(kind, (row, said))
            count[kind] += 1
    if "broken" in first:
        row, said = first["broken"]
        others = f"; nor can it for {count['broken'] - 1} more" if count["broken"] > 1 else ""
        problems.append(_at_fault(where, f"{said}{others}", row))
    if "null" in first:
        row, said = first["null"]
        notes.append(f"{where}: {said}: {count['null']} rows, first {text_of(row)!r}")


def _unmatched(task: Task) -> Iterator[Problem]:
    for validator in task.validators:
        names: Callable[[Task], Sequence[str]] | None = getattr(validator, "unmatched", None)
        yield from (_at_fault(validator.name, reason) for reason in (names(task) if names else ()))


def _notes(task: Task, rows: Mapping[Split, Sequence[Example]]) -> Iterator[str]:
    few = [f"{len(found)} {split}" for split, found in rows.items() if 0 < len(found) < FEW]
    if few:
        yield f"few rows: {', '.join(few)}; {FEW} of each are a start"
    if "corpus" not in task.sources and (task.data.root / task.data.corpus).is_file():
        yield f'{task.data.corpus} is there and is not read: "corpus" is none of the sources'
    models = task.output.functions if isinstance(task.output, Calls) else {}
    dumb = [name for name, model in models.items() if not (model.__doc__ or "").strip()]
    if dumb:
        yield f"no docstring, which tells the teacher what a function is for: {', '.join(dumb)}"
