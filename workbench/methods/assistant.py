"""Learning from a model between teacher and student (Mirzadeh et al. 2020, teacher assistants, arXiv:1902.03393): it learns
the rows first, as a student, and then labels inputs that no answer of a teacher passed for (Lee 2013, pseudo-labels). What
the cheap validators let pass is learned beside the rows. Nothing more is asked of a teacher."""

from workbench.errors import ConfigError
from workbench.methods.base import Method
from workbench.students.settings import DistilConfig


class ByAssistant(Method):
    name = "assistant"
    title = "the rows' text, and beside it that of a larger model, which learned the rows first, for other inputs"
    labels = True

    def check(self, config: DistilConfig) -> None:
        if not config.assistant:
            raise ConfigError(
                "--method assistant wants the model that learns the rows first",
                "--set distil.assistant=NAME, named as a student is, and larger",
            )
