"""What must not be learned from: rows that are too like a dev or test row, and in which of four ways.

text      the same words, but for case, blanks and Unicode form
words     a run of words in common: what a copied passage leaves in a longer text
letters   near duplicates, by MinHash over character 4-grams
values    a long value of the answer that is a held-out answer's too: the same message in another request
"""

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, cast

from workbench.declaration import Task
from workbench.digest import digest
from workbench.duplicates import NearDuplicates
from workbench.outputs.base import fold
from workbench.stages.context import Context
from workbench.types import Example, Split

VALUE_WORDS = 4  # a shorter value ("my sister", "7 am") is anybody's

Way = Literal["text", "words", "letters", "values"]


class Likeness(NamedTuple):
    """What a row is too like: the held-out row's split and id, in which way, and that in words."""

    split: Split
    row: str
    way: Way
    said: str


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
    """The dev and test rows. Where a row is like several of them, the first of them in the first of the ways is named."""

    def __init__(self, context: Context, threshold: float, run: int) -> None:
        """`threshold` is a Jaccard similarity, `run` a number of words; 0: runs of words are not looked at."""
        self.task, self.run = context.task, run
        self._letters = Inputs(context.task, threshold)
        self._found: dict[tuple[Way, Any], tuple[Split, str]] = {}
        for split in ("dev", "test"):
            for example in context.examples(split):
                self._letters.add(f"{split} {example.id}", example)
                for key in self._marks(example):
                    self._found.setdefault(key, (example.split, example.id))

    def like(self, example: Example) -> Likeness | None:
        """How it is too like a held-out row; None: it is not."""
        for way, mark in self._marks(example):
            if found := self._found.get((way, mark)):
                said = f"shares {way if way == 'text' else repr(' '.join(mark[1])[:80])} with"
                return Likeness(*found, way, f"{said} the {found[0]} row {found[1][:8]}")
        if near := self._letters.like(example):
            split, row = near.split()
            return Likeness(cast(Split, split), row, "letters", f"too like the {split} row {row[:8]}")
        return None

    def _marks(self, example: Example) -> Iterator[tuple[Way, Any]]:
        """What two rows that are too like each other have in common."""
        given, words = digest(self.task.given(example.input)), _words(text_of(self.task, example))
        if words:
            yield "text", (given, words)
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
    return tuple(re.findall(r"\w+", str(fold(text))))
