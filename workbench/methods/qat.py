"""Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877): the text, in the last steps by weights that are rounded to
the grid of the file that is to ship. The gradient passes straight through the rounding (students/grid.py)."""

from collections.abc import Sequence
from pathlib import Path

from workbench.methods.base import Method
from workbench.students.lesson import Lesson
from workbench.students.settings import Captured, DistilConfig


class Qat(Method):
    name = "qat"
    title = "the rows' text, in the last steps by weights rounded to the grid of the file"
    on_grid = True

    def lesson(self, config: DistilConfig, captured: Sequence[Captured], base: Path) -> Lesson:
        return Lesson(grid=config.grid, last_mile=config.last_mile)
