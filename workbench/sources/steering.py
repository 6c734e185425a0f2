"""Towards the emptiest cells (`outputs.cells`): which answer to ask an input for, which input to have answered next, which
row to make of others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from workbench.outputs import Output
from workbench.outputs.cells import cells, counted

T = TypeVar("T")


class Steering:
    """Counts what there is of each cell, beginning with `answers`."""

    def __init__(self, output: Output, answers: Iterable[Any]) -> None:
        self.output = output
        self.counts = counted(output, answers)

    def need(self, answer: Any) -> float:
        """1 where all the cells it falls into are empty, towards 0 where each holds many."""
        found = cells(self.output, answer)
        return sum(1 / (1 + self.counts[cell]) for cell in found) / max(1, len(found))

    def take(self, answer: Any) -> None:
        self.counts.update(cells(self.output, answer))

    def neediest(self, drawn: Sequence[T], answer: Callable[[T], Any]) -> T:
        """The first of those whose answer is needed most; it is not yet taken."""
        return drawn[0] if len(drawn) == 1 else max(drawn, key=lambda one: self.need(answer(one)))

    def in_turn(self, items: Iterable[T], answer: Callable[[T], Any]) -> Iterator[T]:
        """All of them, each time one whose answer is needed most then; those with the same answer stay in their order."""
        waiting: dict[str, list[T]] = {}
        answers: dict[str, Any] = {}
        for item in items:
            said = answer(item)
            key = self.output.dump(said)
            answers[key] = said
            waiting.setdefault(key, []).append(item)
        for queue in waiting.values():
            queue.reverse()
        while waiting:
            key = max(waiting, key=lambda key: self.need(answers[key]))
            self.take(answers[key])
            yield waiting[key].pop()
            if not waiting[key]:
                del waiting[key]
