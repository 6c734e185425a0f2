"""What the validators say of answers that a person has checked: how many wrong ones pass, how many right ones do not.

Mutants (trial.py) are wrong in ways that were thought of. A sample of a teacher's own answers, checked by eye and kept with the
task, is wrong in the ways that teachers are.
"""

from collections import Counter
from typing import NamedTuple

from workbench.declaration import Task
from workbench.errors import TaskError
from workbench.judge import judge_cheap
from workbench.scoring import Score, wilson


class Standing(NamedTuple):
    """Over the checked sample: `let_by` of the wrong answers pass all cheap validators, `refused` of the right ones do not.
    Where a validator `crashed` there is no judgement, and the answer is in none of the other counts."""

    wrong: int
    let_by: int
    right: int
    refused: int
    crashed: int

    @property
    def false_accepts(self) -> Score:
        return wilson(self.let_by, self.wrong)

    @property
    def false_rejects(self) -> Score:
        return wilson(self.refused, self.right)


def standing(task: Task) -> Standing | None:
    """None where the task has no checked sample. Raises DataError with file and row."""
    judged = Counter((right, judge_cheap(task, row, text).outcome) for row, text, right in task.checked())
    if not judged:
        return None
    return Standing(
        wrong=judged[False, "pass"] + judged[False, "fail"],
        let_by=judged[False, "pass"],
        right=judged[True, "pass"] + judged[True, "fail"],
        refused=judged[True, "fail"],
        crashed=judged[True, "error"] + judged[False, "error"],
    )


def too_much(task: Task, found: Standing | None) -> str:
    """Why the validators do not stand, empty where they do."""
    if task.lets_by >= 100:
        return ""
    if found is not None and found.crashed:
        return f"a validator crashed on {found.crashed} of the checked answers"
    if found is None or not found.wrong:
        return f"the task allows {task.lets_by:g} % of wrong answers, and no checked one is wrong: nothing was measured"
    if found.false_accepts.value <= task.lets_by:
        return ""
    return (
        f"the validators let by {found.let_by} of {found.wrong} wrong answers of the checked sample "
        f"({found.false_accepts.value:.0f} %), the task allows {task.lets_by:g} %"
    )


def gate(task: Task, typed: str = "") -> None:
    """Raises TaskError where the validators let through more than the task declares. `typed`: the task on a command line."""
    if task.lets_by < 100 and (why := too_much(task, standing(task))):
        raise TaskError(
            why, f"`workbench check {typed or task.name}` tells more; mend the validators, or raise lets_by"
        )
