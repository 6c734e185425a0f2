"""Learning from a larger model with the same tokens, which reads along (`distil.parent`): the one that the student was pruned
from (Muralidharan et al. 2024, Minitron, arXiv:2407.14679). What it thinks of each token, and if wanted its hidden states."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ConfigError, StudentError
from workbench.methods.base import Method
from workbench.students.lesson import Lesson
from workbench.students.settings import Captured, DistilConfig

if TYPE_CHECKING:
    from workbench.students.parent import Hidden


class OfParent(Method):
    name = "parent"
    title = "beside the rows' text, what a larger model with the same tokens thinks of each"

    def check(self, config: DistilConfig) -> None:
        if not config.parent:
            raise ConfigError(
                "--method parent wants the model to learn from", "--set distil.parent=NAME, or its folder"
            )

    def tried(self, config: DistilConfig, base: Path) -> None:
        from workbench.students.load import parameters
        from workbench.students.parent import fits

        parent = _folder(config)
        if parameters(base) > parameters(parent):
            raise StudentError(
                f"the student {base.name} is larger than {config.parent}, which reads along for it",
                "exchange the two, or learn from the text alone (--method sft)",
            )
        fits(parent, base, _hidden(config))

    def lesson(self, config: DistilConfig, captured: Sequence[Captured], base: Path) -> Lesson:
        from workbench.students.parent import Parent

        blend, hidden = self.blend(config), _hidden(config)
        return Lesson(parent=Parent(_folder(config), base, blend, k=config.k, hidden=hidden))


def _folder(config: DistilConfig) -> Path:
    from workbench import models
    from workbench.students.load import prepare_base

    return prepare_base(models.path_or_name(config.parent), models.cache_dir() / "students")


def _hidden(config: DistilConfig) -> "Hidden | None":
    from workbench.students.parent import Hidden

    return Hidden(config.hidden, config.hidden_weight, config.layers) if config.hidden else None
