"""Does the input say what the answer says? Regular expressions, searched in the folded input (lower case, single blanks).

A label is what an answer says beside the values it copies (`Output.labels`): a function, `set_timer`; a choice,
`get_directions.mode=walking` or `urgency=high`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.validators.grounding import folded_input, folded_texts

from workbench.declaration import Task
from workbench.declared import unknown
from workbench.outputs.cells import impossible, possible
from workbench.types import Check, Judged


@dataclass(frozen=True)
class Cued:
    """A label needs a word for it: what the answer says and the input does not was made up."""

    words: Mapping[str, re.Pattern[str]]
    name: str = "cued"

    def judge(self, judged: Judged, task: Task) -> Check:
        text = folded_input(judged)
        for label in task.output.labels(judged.value):
            if label in self.words and not self.words[label].search(text):
                return Check(validator=self.name, outcome="fail", reason=f"nothing in the input says {label}")
        return Check(validator=self.name, outcome="pass")

    def unmatched(self, task: Task) -> list[str]:
        """Labels that no answer has."""
        return _unmatched(self.words, task)


@dataclass(frozen=True)
class Asked:
    """What the input asks for in plain words must be in the answer."""

    words: Mapping[str, re.Pattern[str]]
    name: str = "asked"

    def judge(self, judged: Judged, task: Task) -> Check:
        text, said = folded_input(judged), set(task.output.labels(judged.value))
        for label, pattern in self.words.items():
            found = None if label in said else pattern.search(text)
            if found:
                return Check(
                    validator=self.name,
                    outcome="fail",
                    reason=f"the input says {found.group()!r}, and the answer has no {label}",
                )
        return Check(validator=self.name, outcome="pass")

    def unmatched(self, task: Task) -> list[str]:
        """Labels that no answer has."""
        return _unmatched(self.words, task)


@dataclass(frozen=True)
class Apart:
    """No text value holds the beginning of another wish."""

    words: re.Pattern[str]
    name: str = "apart"

    def judge(self, judged: Judged, task: Task) -> Check:
        for slot, value in folded_texts(judged, task):
            found = self.words.search(value)
            if found:
                return Check(
                    validator=self.name, outcome="fail", reason=f"{slot.name} goes on with {found.group().strip()!r}"
                )
        return Check(validator=self.name, outcome="pass")


def cued(words: Mapping[str, str]) -> Cued:
    """`words`: label -> a pattern that must be found in the input of an answer with that label."""
    return Cued(_compiled(words))


def asked(words: Mapping[str, str]) -> Asked:
    """`words`: label -> a pattern of input that asks for nothing else."""
    return Asked(_compiled(words))


def apart(words: str) -> Apart:
    """`words`: a pattern that no text value of an answer may hold."""
    return Apart(re.compile(words))


def _compiled(words: Mapping[str, str]) -> dict[str, re.Pattern[str]]:
    return {label: re.compile(pattern) for label, pattern in words.items()}


def _unmatched(words: Mapping[str, re.Pattern[str]], task: Task) -> list[str]:
    schema = task.output.schema()
    return unknown("label", impossible(schema, words), list(possible(schema)))
