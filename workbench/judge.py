"""Putting a candidate on trial: validators from cheap to dear, the first that does not pass ends it."""

from collections.abc import Sequence

from workbench.declaration import SecondLook, Task, Validator
from workbench.errors import WorkbenchError
from workbench.outputs import ParseError
from workbench.types import Check, Example, Judged, Verdict


def judge_cheap(task: Task, example: Example, text: str, validators: Sequence[Validator] | None = None) -> Verdict:
    """The verdict of the validators that cost nothing. A validator that raises gives `error`, never `fail`."""
    judged = read(task, example, text)
    checks: list[Check] = []
    for validator in task.cheap if validators is None else validators:
        try:
            check = validator.judge(judged, task)
        except Exception as error:  # noqa: BLE001 - the validator's own crash is a verdict of its own, with its reason
            check = _crashed(validator.name, error)
        checks.append(check)
        if check.outcome != "pass":
            break
    return _verdict(checks)


async def judge(task: Task, example: Example, text: str, look: SecondLook) -> Verdict:
    """Cheap validators, then, where all pass, the dear ones. What the teacher refuses to answer is raised, not judged."""
    verdict = judge_cheap(task, example, text)
    if verdict.outcome != "pass":
        return verdict
    judged = read(task, example, text)
    checks = list(verdict.checks)
    for validator in task.dear:
        try:
            check = await validator.judge_with(judged, task, look)
        except WorkbenchError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            check = _crashed(validator.name, error)
        checks.append(check)
        if check.outcome != "pass":
            break
    return _verdict(checks)


def read(task: Task, example: Example, text: str) -> Judged:
    """The candidate as validators see it: `value` is None where the text is no answer."""
    try:
        return Judged(example, text, task.output.parse(text))
    except ParseError:
        return Judged(example, text, None)


def _crashed(name: str, error: Exception) -> Check:
    return Check(validator=name, outcome="error", reason=f"{type(error).__name__}: {error}")


def _verdict(checks: list[Check]) -> Verdict:
    outcome = checks[-1].outcome if checks else "pass"
    return Verdict(outcome=outcome, checks=tuple(checks))
