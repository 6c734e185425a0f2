"""All that a training is given, so that another process can be given it too."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import methods
from workbench.errors import StudentError
from workbench.methods import Captured
from workbench.students.settings import DistilConfig, Pair, Progress, TrainConfig
from workbench.types import Frozen

if TYPE_CHECKING:
    from workbench.students.crew import Crew


class Job(Frozen):
    """`base` is the student's folder, `start` an adapter to begin from, `work` where the adapter goes, `captured` what the
    stage `capture` left."""

    base: Path
    rows: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    config: TrainConfig
    distil: DistilConfig
    work: Path
    start: Path | None = None
    captured: tuple[Captured, ...] = ()


def learn(job: Job, progress: Callable[[Progress], None], crew: "Crew | None" = None) -> None:
    """By the job's method. Raises StudentError, LogitError."""
    from workbench.students.crew import ALONE
    from workbench.students.qlora import train

    method = methods.named(job.distil.method)
    lesson = method.lesson(job.distil, job.captured, job.base)
    if mile := method.rounded(job.distil):
        lesson = lesson._replace(grid=job.distil.grid, last_mile=mile)
    if lesson.taught is not None and lesson.parent is not None:
        raise StudentError(f"--method {job.distil.method}: two say what they think of a token", "give one of them")
    if lesson.taught is None and any(row.own for row in job.rows):
        raise StudentError(
            f"--method {job.distil.method}: nobody says what to learn of the student's own words", "mend it"
        )
    train(
        job.base,
        job.rows,
        job.dev,
        job.config,
        job.work,
        progress,
        start=job.start,
        lesson=lesson,
        crew=crew or ALONE,
    )
