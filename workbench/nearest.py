"""The rows whose inputs are most like another's: Jaccard similarity of character trigrams."""

from collections.abc import Sequence

from workbench.types import Example


class Nearest:
    def __init__(self, rows: Sequence[Example]) -> None:
        self.rows = list(rows)
        self._grams = [_trigrams(input_text(row)) for row in rows]

    def to(self, example: Example, count: int) -> list[Example]:
        """The `count` rows most like the input, most like first; not itself."""
        likeness = self._likenesses(example)
        order = sorted(range(len(self.rows)), key=lambda i: (-likeness[i], i))
        return [self.rows[i] for i in order if self.rows[i].id != example.id][:count]

    def likeness(self, example: Example) -> float:
        """To the row that is most like it."""
        return max(self._likenesses(example))

    def _likenesses(self, example: Example) -> list[float]:
        grams = _trigrams(input_text(example))
        return [len(grams & own) / max(1, len(grams | own)) for own in self._grams]


def input_text(example: Example) -> str:
    """The input as the teacher reads it: the value itself if there is one field, else a line a field."""
    values = example.input
    if len(values) == 1:
        return str(next(iter(values.values())))
    return "\n".join(f"{name}: {value}" for name, value in values.items() if value is not None)


def _trigrams(text: str) -> frozenset[str]:
    padded = f"  {text.casefold()} "
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))
