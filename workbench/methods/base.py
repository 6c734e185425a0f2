"""The seam of a way of learning: what it asks of a run, and what it adds to the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from workbench.students.lesson import Lesson
from workbench.students.settings import Captured, DistilConfig, Divergence

if TYPE_CHECKING:
    from workbench.students.divergence import Blend


Captures = Literal["", "rows", "attempts"]
Attempts = Literal["", "unanswered", "rows"]


class Method:
    """A way of learning, for `--method NAME` and `workbench compare`. A package brings its own through the entry-point group
    `workbench.methods`, which names an object like this.

    `captures`: a teacher is asked what it thinks of the shard's rows, or of the student's attempts; it runs here, or tells that
    of rows with its answers.
    `attempts`: from the second round on, the student of the round before answers first: inputs that nobody
    answered yet, or those of the shard. `rounds`: at least so many.
    `labels`: the model `distil.assistant` learns the rows first, and answers inputs that no teacher's answer passed for. Raise
    `version` when it comes to do something else.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # what is learned: the report, the card and `workbench audit` tell it
    version: ClassVar[int] = 1
    captures: ClassVar[Captures] = ""
    attempts: ClassVar[Attempts] = ""
    labels: ClassVar[bool] = False
    rounds: ClassVar[int] = 1
    last_mile: ClassVar[float] = 0.0  # where the settings name none: the share of the steps with rounded weights
    divergence: ClassVar[Divergence] = "forward_kl"  # where the settings name none

    def of_round(self, number: int) -> "Method":
        """What a round is trained by: before the student answers first, the rows' text."""
        from workbench.methods.sft import Sft

        return Sft() if self.attempts and number == 1 else self

    def check(self, config: DistilConfig) -> None:
        """Raises ConfigError where a setting is missing: told before anything runs."""

    def tried(self, config: DistilConfig, base: Path) -> None:
        """Whether it will go with the student in the folder `base`: told before a teacher is paid. Raises ModelError,
        StudentError."""

    def lesson(self, config: DistilConfig, captured: Sequence[Captured], base: Path) -> Lesson:
        """`base` is the student's folder. Raises LogitError, StudentError."""
        return Lesson()

    def rounded(self, config: DistilConfig) -> float:
        """The share of the steps, the last ones, with weights rounded to the grid of the file."""
        return self.last_mile if config.last_mile is None else config.last_mile

    def told(self, config: DistilConfig) -> str:
        """What is learned, in a line."""
        share = self.rounded(config)
        grid = f", in the last {share:.0%} of the steps by weights rounded to the {config.grid} grid"
        return self.title + (grid if share else "")

    def kind(self, config: DistilConfig) -> Divergence:
        return config.divergence or self.divergence

    def blend(self, config: DistilConfig) -> "Blend":
        """How a divergence goes into the loss."""
        from workbench.students.divergence import Blend

        return Blend(config.weight, config.temperature, self.kind(config), config.beta)
