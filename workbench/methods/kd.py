"""Knowledge distillation (Hinton et al. 2015, arXiv:1503.02531): beside each row's text, what the teacher, shown it, thinks of
each token. Across tokenizers where they differ (students/align.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from workbench.methods.base import Captures, Method
from workbench.students.lesson import Lesson
from workbench.students.settings import Captured, DistilConfig


class Kd(Method):
    name = "kd"
    title = "beside the text, what the teacher thinks of each token of the rows"
    captures: ClassVar[Captures] = "rows"

    def lesson(self, config: DistilConfig, captured: Sequence[Captured], base: Path) -> Lesson:
        from workbench.students.taught import Taught

        if not captured:  # the student's attempts, of which there are none in the first round
            return Lesson()
        return Lesson(taught=Taught(captured, base, self.blend(config), k=config.k))
