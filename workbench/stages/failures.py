"""What a later round asks for: more like what the last round's shipped file got wrong on dev. The dev rows themselves are shown
to no teacher, and what is too like one is trained on by nobody: they say where to look."""

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from workbench.nearest import Nearest
from workbench.outputs import Output
from workbench.outputs.cells import cells, counted
from workbench.stages.context import Context, read_json
from workbench.types import Example

T = TypeVar("T")


class Failures:
    """Dev rows that were got wrong."""

    def __init__(self, output: Output, wrong: Sequence[Example]) -> None:
        self._output = output
        self._cells = counted(output, [row.target for row in wrong])
        self._nearest = Nearest(wrong)

    def weight(self, answer: Any) -> int:
        """How often its cells were got wrong."""
        return sum(self._cells[cell] for cell in cells(self._output, answer))

    def drawn(self, models: Sequence[tuple[Any, T]], rng: random.Random) -> tuple[Any, T]:
        """One of the answers, each with what goes with it, by weight."""
        weights = [self.weight(answer) for answer, _ in models]
        return rng.choices(models, weights if any(weights) else None)[0]

    def likeness(self, example: Example) -> float:
        """To the input that is most like it, 0 to 1."""
        return self._nearest.likeness(example)


def failures_of(context: Context) -> Failures | None:
    """Of the round before; None in the first, and where nothing was got wrong."""
    before = context.inputs.get("export before")
    if before is None:
        return None
    made = read_json(before / "export.json")
    wrong = next(set(item["wrong"]) for item in made["files"] if item["name"] == made["chosen"])
    rows = [row for row in context.examples("dev") if row.id in wrong]
    return Failures(context.task.output, rows) if rows else None
