"""What must not be learned from: inputs that are too like a dev or test row."""

from workbench.digest import digest
from workbench.duplicates import NearDuplicates
from workbench.stages.context import Context
from workbench.task import Task
from workbench.types import Example


class Inputs:
    """A growing set of inputs, by what a person wrote; apart for each set of given fields, for the same question on another
    schema is another input."""

    def __init__(self, task: Task, threshold: float) -> None:
        self.task, self.threshold = task, threshold
        self._texts: dict[str, NearDuplicates] = {}

    def like(self, example: Example) -> str | None:
        """The name of one that is too like it."""
        return self._beside(example).like(text_of(self.task, example))

    def add(self, name: str, example: Example) -> None:
        self._beside(example).add(name, text_of(self.task, example))

    def _beside(self, example: Example) -> NearDuplicates:
        key = digest(self.task.given(example.input))
        if key not in self._texts:  # an index is dear to make
            self._texts[key] = NearDuplicates(self.threshold)
        return self._texts[key]


def held_out(context: Context, threshold: float) -> Inputs:
    """The dev and test inputs, each named `split id`."""
    found = Inputs(context.task, threshold)
    for split in ("dev", "test"):
        for example in context.examples(split):
            found.add(f"{split} {example.id}", example)
    return found


def text_of(task: Task, example: Example) -> str:
    """What a person wrote; nothing where a teacher wrote what is no input."""
    return str(example.input.get(task.written, ""))
