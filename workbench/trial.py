"""Validators stand trial, without a model: what do they say of answers known to be right, and known to be wrong?

    rows      every human row parses, and every cheap validator passes its target
    checked   a teacher's answers that a person found right or wrong: how many are judged otherwise (checked.py)
    probes    the author's own cases go as the author said
    mutants   right answers made wrong in one place (mutants.py): how many does each validator let through?

A let-through count is a measure, not a verdict: a validator that looks at one thing lets by what is wrong elsewhere.
What counts is the column `together`, judged with the target hidden, as a teacher's answer to a new input is judged.
Dear validators ask a teacher and are not tried here.
"""

import random
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import ValidationError

from workbench.checked import Standing, standing, too_much
from workbench.declaration import Probe, Task
from workbench.errors import DataError
from workbench.inspection import Problem, inspect, text_of, told
from workbench.judge import judge_cheap, read
from workbench.mutants import KINDS, Mutant, mutants
from workbench.scoring import wilson
from workbench.types import SPLITS, Example, Frozen, Outcome, Split, Verdict

if TYPE_CHECKING:
    from rich.console import Console

NONE = "–"
MUTATED: tuple[Split, ...] = ("seed", "dev")  # the test rows are for the end; reading them here would tune to them


class Cell(Frozen):
    """Of `total` mutants judged, `passed` were let through. A crash is no judgement and is in neither."""

    passed: int
    total: int


class Line(Frozen):
    """One kind of mutation: each validator alone, in the task's order, then all of them with the target hidden."""

    kind: str
    alone: tuple[Cell, ...]
    together: Cell


class Trial(Frozen):
    """`validators` head the columns of `lines`; `needs_target` are those that say less where no target is known; `notes` are
    no problems."""

    task: str
    rows: dict[str, int]
    probes: int
    problems: tuple[Problem, ...]
    validators: tuple[str, ...]
    dear: tuple[str, ...]
    needs_target: tuple[str, ...]
    lines: tuple[Line, ...]
    standing: Standing | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems


def try_task(task: Task) -> Trial:
    """Try the data, the probes and the cheap validators of a task. Raises nothing that is a fault of theirs."""
    rows, unlabelled, problems, notes = inspect(task)
    stand = _standing(task, problems)
    good = [row for split in SPLITS for row in rows[split] if _target_passes(task, row, problems) and split in MUTATED]
    for number, probe in enumerate(task.probes, 1):
        problem = _probe(task, number, probe)
        problems += [problem] if problem else []
    lines, needs_target = _mutation(task, good, problems)
    return Trial(
        task=task.name,
        rows={split: len(found) for split, found in rows.items()} | ({"corpus": len(unlabelled)} if unlabelled else {}),
        probes=len(task.probes),
        problems=tuple(problems),
        validators=tuple(validator.name for validator in task.cheap),
        dear=tuple(validator.name for validator in task.dear),
        needs_target=needs_target,
        lines=lines,
        standing=stand,
        notes=tuple(notes),
    )


def _standing(task: Task, problems: list[Problem]) -> Standing | None:
    found = None
    try:
        found = standing(task)
        why = too_much(task, found)
    except DataError as error:
        why = told(error)
    if why:
        problems.append(Problem(where="checked", input="", validator="data", outcome="fail", reason=why))
    return found


def _target_passes(task: Task, row: Example, problems: list[Problem]) -> bool:
    """Each validator is asked, also behind one that refused: the author sees all there is to mend at once."""
    text = task.output.dump(row.target)
    verdicts = [judge_cheap(task, row, text, [validator]) for validator in task.cheap]
    bad = [check for verdict in verdicts for check in verdict.checks if check.outcome != "pass"]
    problems += [_problem(row.split, row, check.validator, check.outcome, check.reason) for check in bad]
    return not bad


def _probe(task: Task, number: int, probe: Probe) -> Problem | None:
    where = f"probe {number}"
    try:
        example = task.example(probe.input, split="new")
    except ValidationError as error:
        reason = f"the probe's input does not fit the task: {error.errors()[0]['msg']}"
        return Problem(where=where, input=str(probe.input), validator="data", outcome="fail", reason=reason)
    names = [validator.name for validator in task.cheap]
    if probe.by is not None and probe.by not in names:
        reason = f"no cheap validator is called {probe.by!r}; there are {', '.join(names) or 'none'}"
        return _problem(where, example, probe.by, "fail", reason)
    verdict = judge_cheap(task, example, probe.text)
    last = verdict.checks[-1].validator if verdict.checks else ""
    reason = verdict.checks[-1].reason if verdict.checks else ""
    if verdict.outcome == "error":
        return _problem(where, example, last, "error", reason)
    if probe.by is None:
        return _problem(where, example, last, "fail", reason) if verdict.outcome == "fail" else None
    if verdict.outcome == "pass":
        return _problem(where, example, probe.by, "pass", f"should refuse {probe.text}")
    if last != probe.by:
        return _problem(where, example, last, "fail", f"refused it before {probe.by} could: {reason}")
    return None


def _mutation(task: Task, good: list[Example], problems: list[Problem]) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """The table, and the names of the validators that refuse less with the target hidden."""
    judged: Counter[tuple[str, int, Outcome]] = Counter()  # (kind, column, outcome); column -1 is all together
    crashes: dict[str, tuple[Example, Mutant, str, int]] = {}
    needs_target: dict[str, None] = {}
    for row in good:
        hidden = row.model_copy(update={"target": None})
        others = [other.target for other in good if other is not row]
        for mutant in mutants(task.output, row, random.Random(f"{task.name} {row.id}"), others):
            for column, validator in enumerate(task.cheap):
                alone = judge_cheap(task, row, mutant.text, [validator]).outcome
                judged[mutant.kind, column, alone] += 1
                if alone == "fail" and judge_cheap(task, hidden, mutant.text, [validator]).outcome == "pass":
                    needs_target[validator.name] = None
            together = judge_cheap(task, hidden, mutant.text)
            judged[mutant.kind, -1, together.outcome] += 1
            crashed = next((v for v in (together, judge_cheap(task, row, mutant.text)) if v.outcome == "error"), None)
            if crashed:
                _count_crash(crashes, row, mutant, crashed)
    for name, (row, mutant, reason, count) in crashes.items():
        told = f"{reason} on {mutant.text} ({mutant.kind}; {count} such mutants)"
        if read(task, row, mutant.text).value is None:
            told += "; put parses() and schema() before it"
        problems.append(_problem("mutant", row, name, "error", told))
    kinds = sorted({kind for kind, _, _ in judged}, key=KINDS.index)

    def cell(kind: str, column: int) -> Cell:
        passed = judged[kind, column, "pass"]
        return Cell(passed=passed, total=passed + judged[kind, column, "fail"])

    columns = range(len(task.cheap))
    lines = [Line(kind=k, alone=tuple(cell(k, c) for c in columns), together=cell(k, -1)) for k in kinds]
    return tuple(lines), tuple(needs_target)


def _count_crash(
    crashes: dict[str, tuple[Example, Mutant, str, int]], row: Example, mutant: Mutant, verdict: Verdict
) -> None:
    """The first crash of each validator is told, the rest are counted."""
    last = verdict.checks[-1]
    first = crashes.get(last.validator, (row, mutant, last.reason, 0))
    crashes[last.validator] = (*first[:3], first[3] + 1)


def _problem(where: str, row: Example, validator: str, outcome: Outcome, reason: str) -> Problem:
    return Problem(where=where, input=text_of(row), validator=validator, outcome=outcome, reason=reason)


def print_trial(trial: Trial, console: "Console", limit: int = 20) -> None:
    """Print what is wrong (at most `limit` problems, then their number), and the table of mutants let through."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = ", ".join(f"{count} {split}" for split, count in trial.rows.items())
    outcome = "all well" if trial.ok else f"{len(trial.problems)} problem{'s' * (len(trial.problems) > 1)}"
    style = "bold green" if trial.ok else "bold red"
    console.print(Text.assemble((trial.task, "bold"), f": {rows} rows, {trial.probes} probes: ", (outcome, style)))
    words = {"fail": "refuses", "error": "crashed", "pass": "lets it through"}
    for problem in trial.problems[:limit]:
        said = f"{problem.input!r}: " if problem.input else ""
        told = "" if problem.validator == "data" else f"{problem.validator} {words[problem.outcome]}: "
        console.print(Text.assemble((f"  {problem.where}: ", "red"), said, told, problem.reason))
    if len(trial.problems) > limit:
        console.print(Text(f"  ... and {len(trial.problems) - limit} more"))
    for note in trial.notes:
        console.print(Text.assemble(("  note: ", "yellow"), note))
    if trial.standing is not None:
        console.print(Text(f"  {_stood(trial.standing)}"))
    if not trial.lines:
        return
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    grid.add_column(Text("made wrong by"), no_wrap=True)
    for name in (*trial.validators, "together"):
        grid.add_column(Text(name), justify="right", overflow="fold", no_wrap=name == "together")
    for number, line in enumerate((*trial.lines, _sum(trial.lines)), 1):
        cells = (f"{100 * cell.passed / cell.total:.0f}" if cell.total else NONE for cell in line.alone)
        of = line.together
        last = Text(f"{of.passed}/{of.total}" if of.total else NONE, style="bold yellow" if of.passed else "bold green")
        grid.add_row(Text(line.kind), *map(Text, cells), last, end_section=number == len(trial.lines))
    console.print(grid)
    every = _sum(trial.lines).together
    found = wilson(every.passed, every.total)
    notes = [
        "right answers made wrong in one place: percent that each validator alone lets through",
        "together: one after the other with the target hidden, as a teacher's own answers are judged; of all "
        f"{found.value:.0f} %, 95 % interval {found.low:.0f} to {found.high:.0f}",
    ]
    if trial.needs_target:
        notes.append(f"{', '.join(trial.needs_target)}: refuses less, or nothing, where no target is known")
    if trial.dear:
        notes.append(f"not tried, asks the teacher: {', '.join(trial.dear)}")
    for note in notes:
        console.print(Text(note, style="dim"))


def _sum(lines: tuple[Line, ...]) -> Line:
    def added(cells: tuple[Cell, ...]) -> Cell:
        return Cell(passed=sum(cell.passed for cell in cells), total=sum(cell.total for cell in cells))

    columns = zip(*(line.alone for line in lines), strict=True)
    return Line(
        kind="all", alone=tuple(added(column) for column in columns), together=added(tuple(x.together for x in lines))
    )


def _stood(found: Standing) -> str:
    by, no = found.false_accepts, found.false_rejects
    return (
        f"checked by eye: {found.let_by} of {found.wrong} wrong answers let by "
        f"({by.value:.0f} %, 95 % interval {by.low:.0f} to {by.high:.0f}), "
        f"{found.refused} of {found.right} right ones refused ({no.value:.0f} %, {no.low:.0f} to {no.high:.0f})"
    )
