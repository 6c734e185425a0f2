"""What the validators say of answers that a person has checked: how many wrong ones pass, how many right ones do not.

Mutants (trial.py) are wrong in ways that were thought of. A sample of a teacher's own answers, checked by eye and kept with the
task, is wrong in the ways that teachers are.
"""

from typing import NamedTuple

from workbench.declaration import Task
from workbench.errors import TaskError
from workbench.judge import judge_cheap
from workbench.scoring import Score, wilson


class Standing(NamedTuple):
    """Over the checked sample: `let_by` of the wrong answers pass all cheap validators, `refused` of the right ones do not."""

    wrong: int
    let_by: int
    right: int
    refused: int

    @property
    def false_accepts(self) -> Score:
        return wilson(self.let_by, self.wrong)

    @property
    def false_rejects(self) -> Score:
        return wilson(self.refused, self.right)


def standing(task: Task) -> Standing | None:
    """None where the task has no checked sample. Raises DataError with file and row."""
    judged = [(right, judge_cheap(task, row, text).outcome == "pass") for row, text, right in task.checked()]
    if not judged:
        return None
    return Standing(
        wrong=sum(not right for right, _ in judged),
        let_by=sum(passed and not right for right, passed in judged),
        right=sum(right for right, _ in judged),
        refused=sum(right and not passed for right, passed in judged),
    )


def too_much(task: Task, found: Standing | None) -> str:
    """Why the validators do not stand, empty where they do."""
    if found is None or found.false_accepts.value <= task.lets_by:
        return ""
    return (
        f"the validators let by {found.let_by} of {found.wrong} wrong answers of the checked sample "
        f"({found.false_accepts.value:.0f} %), the task allows {task.lets_by:g} %"
    )


def gate(task: Task) -> None:
    """Raises TaskError where the validators let through more than the task declares."""
    if task.lets_by < 100 and (why := too_much(task, standing(task))):
        raise TaskError(why, f"`workbench check {task.name}` tells more; mend the validators, or raise lets_by")
