"""Learning from a larger model with the same tokens, which reads along (`distil.parent`): the one that the student was pruned
from (Muralidharan et al. 2024, Minitron, arXiv:2407.14679). What it thinks of each token, and if wanted its hidden states."""

from pathlib import Path

from workbench.errors import ConfigError
from workbench.methods.base import Captured, Lesson, Method
from workbench.students.settings import DistilConfig


class OfParent(Method):
    name = "parent"
    title = "beside the rows' text, what a larger model with the same tokens thinks of each"

    def check(self, config: DistilConfig) -> None:
        if not config.parent:
            raise ConfigError(
                "--method parent wants the model to learn from", "--set distil.parent=NAME, or its folder"
            )

    def lesson(self, config: DistilConfig, captured: Captured | None, base: Path) -> Lesson:
        from workbench import models
        from workbench.students.load import prepare_base
        from workbench.students.parent import Hidden, Parent

        folder = prepare_base(models.path_or_name(config.parent), models.cache_dir() / "students")
        hidden = config.hidden and Hidden(config.hidden, config.hidden_weight, config.layers)
        return Lesson(parent=Parent(folder, base, self.blend(config), k=config.k, hidden=hidden))
