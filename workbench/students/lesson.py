"""What a training is given beside the rows' text. Cheap to import: what it holds is imported where it is made."""

from typing import TYPE_CHECKING, NamedTuple

from workbench.students.settings import Grid

if TYPE_CHECKING:
    from workbench.students.parent import Parent
    from workbench.students.taught import Taught


class Lesson(NamedTuple):
    """`taught`: what a teacher's distributions say of the rows, and how that goes into the loss. `parent`: who reads along.
    `grid`: what the weights are rounded to in the last steps, the share `last_mile` of them."""

    taught: "Taught | None" = None
    parent: "Parent | None" = None
    grid: Grid | None = None
    last_mile: float = 1.0

    @property
    def names(self) -> list[str]:
        """What tells it from another, in a checkpoint; nothing where it is the text alone."""
        return [
            *([self.taught.name] if self.taught is not None else []),
            *([self.parent.name] if self.parent is not None else []),
            *([f"{self.grid} {self.last_mile:g}"] if self.grid is not None else []),
        ]


TEXT = Lesson()
