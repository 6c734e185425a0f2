"""What must not be learned from: inputs that are too like a dev or test row."""

from workbench.duplicates import NearDuplicates
from workbench.sources.recombine import main_field
from workbench.stages.context import Context
from workbench.types import Example


def held_out(context: Context, threshold: float) -> NearDuplicates:
    """The dev and test inputs, each named `split id`."""
    found = NearDuplicates(threshold)
    for split in ("dev", "test"):
        for example in context.examples(split):
            found.add(f"{split} {example.id}", text_of(example))
    return found


def text_of(example: Example) -> str:
    return str(example.input[main_field(example.input)])
