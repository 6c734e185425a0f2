"""Putting a candidate on trial: validators from cheap to dear, the first that does not pass ends it."""

import asyncio
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from workbench import registry
from workbench.declaration import SecondLook, Task, Validator, heavy
from workbench.errors import WorkbenchError
from workbench.machine import end_with
from workbench.outputs import ParseError
from workbench.types import Check, Example, Judged, Verdict


def judge_cheap(task: Task, example: Example, text: str, validators: Sequence[Validator] | None = None) -> Verdict:
    """The verdict of the validators that cost nothing. A validator that raises gives `error`, never `fail`."""
    judged = read(task, example, text)
    checks: list[Check] = []
    for validator in task.cheap if validators is None else validators:
        try:
            check = _said(validator.judge(judged, task))
        except Exception as error:  # noqa: BLE001 - the validator's own crash is a verdict of its own, with its reason
            check = _crashed(validator.name, error)
        checks.append(check)
        if check.outcome != "pass":
            break
    return _verdict(checks)


async def judge(task: Task, example: Example, text: str, look: SecondLook, bench: "Bench | None" = None) -> Verdict:
    """Cheap validators, the heavy ones among them on the bench, then, where all pass, the dear ones. What the teacher refuses
    to answer is raised, not judged."""
    light = [validator for validator in task.cheap if bench is None or not heavy(validator)]
    verdict = judge_cheap(task, example, text, light)
    if bench is not None and verdict.outcome == "pass":
        verdict = _verdict([*verdict.checks, *await bench.checks(example, text)])
    if verdict.outcome != "pass" or not task.dear:
        return verdict
    judged = read(task, example, text)
    checks = list(verdict.checks)
    for validator in task.dear:
        try:
            check = _said(await validator.judge_with(judged, task, look))
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


def _said(check: object) -> Check:
    """Raises TypeError: what a validator of somebody else's says may be anything."""
    if not isinstance(check, Check):
        raise TypeError(f"it is to give a Check, and gave {check!r}")
    return check


def _crashed(name: str, error: Exception) -> Check:
    return Check(validator=name, outcome="error", reason=f"{type(error).__name__}: {error}")


def _verdict(checks: list[Check]) -> Verdict:
    outcome = checks[-1].outcome if checks else "pass"
    return Verdict(outcome=outcome, checks=tuple(checks))


class Bench:
    """Where heavy validators judge: processes beside the run's own, so that a slow one holds up nobody who asks or waits.

    They begin with the first candidate and end with `close`, or when the run is gone.
    """

    def __init__(self, task: Task, jobs: int) -> None:
        self._task, self._jobs = task, jobs
        self._pool: ProcessPoolExecutor | None = None
        self._alone = asyncio.Lock()

    async def checks(self, example: Example, text: str) -> tuple[Check, ...]:
        """What the heavy validators say, the first that does not pass last."""
        loop = asyncio.get_running_loop()
        pool = self._pool = self._pool or processes(self._task, self._jobs)
        try:
            return await loop.run_in_executor(pool, _heavy_checks, example, text)
        except BrokenProcessPool:  # one candidate's death takes all that sit there with it
            if self._pool is pool:
                self._pool = None
        async with self._alone:  # whose it was, is found out one by one
            single = processes(self._task, 1)
            try:
                return await loop.run_in_executor(single, _heavy_checks, example, text)
            except BrokenProcessPool:
                name = next(validator.name for validator in self._task.cheap if heavy(validator))
                return (Check(validator=name, outcome="error", reason="the process that judges died"),)
            finally:
                _end(single)

    def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """At once: what they judge nobody waits for."""
    processes = list((pool._processes or {}).values())  # Python 3.14 has `terminate_workers`
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()


def bench_for(task: Task, jobs: int) -> Bench | None:
    """None where no validator is heavy."""
    return Bench(task, jobs) if any(heavy(validator) for validator in task.cheap) else None


def processes(task: Task, jobs: int) -> ProcessPoolExecutor:
    """Of the run, each with the task (`seated`); they end with it, by kill -9 too."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), _sit_down, (registry.where(task), os.getpid()))


_TASK: list[Task] = []  # of such a process


def seated() -> Task:
    """In such a process: its task."""
    (task,) = _TASK
    return task


def _sit_down(found: registry.Found, run: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the run, which ends us
    end_with(run)
    _TASK.append(registry.made(found))


def _heavy_checks(example: Example, text: str) -> tuple[Check, ...]:
    task = seated()
    return judge_cheap(task, example, text, [validator for validator in task.cheap if heavy(validator)]).checks
