"""What must not be learned from: inputs that are too like a dev or test row."""

from workbench.duplicates import NearDuplicates
from workbench.stages.context import Context
from workbench.task import Task
from workbench.types import Example


def held_out(context: Context, threshold: float) -> NearDuplicates:
    """The dev and test inputs, each named `split id`."""
    found = NearDuplicates(threshold)
    for split in ("dev", "test"):
        for example in context.examples(split):
            found.add(f"{split} {example.id}", text_of(context.task, example))
    return found


def text_of(task: Task, example: Example) -> str:
    """What a person wrote; nothing where a teacher wrote what is no input."""
    return str(example.input.get(task.written, ""))
