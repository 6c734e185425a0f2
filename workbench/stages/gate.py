"""What must not be learned from: rows that are too like a dev or test row, and in which of five ways.

- `text`: the same words, but for case, blanks, Unicode form and the marks around them
- `group`: of one group by the author's word (a customer, a conversation)
- `words`: a run of words in common, which a copied passage leaves in a longer text
- `letters`: near duplicates, by MinHash over character 4-grams
- `values`: a long value of the answer that is a held-out answer's too, the same message in another request

A run or a value that several held-out rows have in common is anybody's (a closing line, a form of words) and says nothing.
"""

import string
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, cast

from workbench.declaration import Task
from workbench.digest import digest
from workbench.duplicates import NearDuplicates
from workbench.outputs.base import fold
from workbench.stages.context import Context
from workbench.types import Example, Split

VALUE_WORDS = 6  # a shorter value ("sunday at 17:00", "put the bins out") is anybody's
MARKS = string.punctuation + "¡¿«»„“”‚‘’–—…"

Way = Literal["text", "group", "words", "letters", "values"]
Leaks = dict[str, list[Way]]  # the held-out rows that were met, by id, and in which ways


class Likeness(NamedTuple):
    """What a row is too like: the held-out rows' ids (of the first, the split), in which way, and that in words."""

    split: Split
    rows: tuple[str, ...]
    way: Way
    said: str


def add_leaks(leaks: Leaks, rows: Iterable[str], ways: Iterable[Way]) -> None:
    for row in rows:
        leaks[row] = sorted({*leaks.get(row, []), *ways})


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


class HeldOut:
    """The dev and test rows, and what is too like them by the config's `leaks`."""

    def __init__(self, context: Context) -> None:
        self.task, self.run = context.task, context.config.leaks.words
        self._letters = Inputs(context.task, context.config.leaks.letters)
        self._holders: dict[tuple[Way, Any], dict[str, Split]] = {}
        for split in ("dev", "test"):
            for example in context.examples(split):
                self._letters.add(f"{split} {example.id}", example)
                for mark in self._marks(example):
                    self._holders.setdefault(mark, {})[example.id] = example.split

    def like(self, example: Example) -> Likeness | None:
        """How it is too like held-out rows, in the first of the ways in which it is; None: it is not."""
        for way, mark in self._marks(example):
            found = self._holders.get((way, mark), {})
            if found and (way in ("text", "group") or len(found) == 1):
                row, split = next(iter(found.items()))
                shared = f"its {way}" if way in ("text", "group") else repr(" ".join(mark[1])[:80])
                return Likeness(split, tuple(found), way, f"shares {shared} with the {split} row {row[:8]}")
        if near := self._letters.like(example):
            name, row = near.split()
            return Likeness(cast(Split, name), (row,), "letters", f"too like the {name} row {row[:8]}")
        return None

    def _marks(self, example: Example) -> Iterator[tuple[Way, Any]]:
        """What two rows that are too like each other have in common."""
        given, words = digest(self.task.given(example.input)), _words(text_of(self.task, example))
        if words:
            yield "text", (given, words)
        if example.group:
            yield "group", (example.group,)
        if self.run:
            for start in range(len(words) - self.run + 1):
                yield "words", (given, words[start : start + self.run])
        if example.target is not None:
            for slot in self.task.output.slots(example.target):
                value = _words(str(slot.value)) if slot.kind == "text" else ()
                if len(value) >= VALUE_WORDS:
                    yield "values", (slot.name, value)


def text_of(task: Task, example: Example) -> str:
    """What a person wrote; nothing where a teacher wrote what is no input."""
    return str(example.input.get(task.written, ""))


def _words(text: str) -> tuple[str, ...]:
    """Folded, without the marks around each."""
    return tuple(word for part in str(fold(text)).split() if (word := part.strip(MARKS)))
