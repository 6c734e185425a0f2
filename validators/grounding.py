"""Are the values of an answer found in its input? Text word for word, numbers by a rule the task declares.

It does not see a value that was copied into the wrong argument, nor one that the input says and the answer leaves out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workbench.declaration import Task
from workbench.declared import expect, unknown
from workbench.outputs import Calls, Slot
from workbench.outputs.base import fold
from workbench.outputs.cells import slot_names
from workbench.types import Check, Judged

Rule = Callable[[Any, str], bool]  # (value, folded input text) -> is it derivable?

HALF_HOURS = {30: "half an hour", 15: "quarter of an hour", 45: "three quarters of an hour", 90: "hour and a half"}
PARTS = {15: ("quarter",), 30: ("half", ".5"), 45: ("three quarters",)}
LEVELS = {
    0: ("mute", "silen", "zero", "off", "quiet as"),
    50: ("half", "halfway", "middle"),
    100: ("max", "full", "all the way", "loudest", "top", "as loud"),
    25: ("quarter",),
    75: ("three quarters",),
}


@dataclass(frozen=True)
class Grounded:
    """`rules`: how a slot's value may be derived (None: not checked). Text in no rule must occur in the input;
    numbers in no rule must occur as digits or in words; choices and booleans are not checked."""

    rules: Mapping[str, Rule | None]
    leading: tuple[str, ...]
    trailing: tuple[str, ...] = ()
    name: str = "grounded"

    def judge(self, judged: Judged, task: Task) -> Check:
        text = folded_input(judged)
        for slot in task.output.slots(judged.value):
            reason = self._against(slot, text)
            if reason:
                return Check(validator=self.name, outcome="fail", reason=reason)
        return Check(validator=self.name, outcome="pass")

    def unmatched(self, task: Task) -> list[str]:
        """Rules for what no answer has."""
        known = slot_names(task.output.schema())
        return unknown("argument" if isinstance(task.output, Calls) else "field", self.rules, known) if known else []

    def _against(self, slot: Slot, text: str) -> str:
        if slot.name in self.rules:
            rule = self.rules[slot.name]
            return "" if rule is None or rule(slot.value, text) else f"{slot.name} = {slot.value!r} is not in the input"
        if slot.kind == "number":
            return "" if number(slot.value, text) else f"{slot.name} = {slot.value!r} is not in the input"
        if slot.kind == "text":
            value = fold(slot.value)
            if not value or not _occurs(value, text):
                return f"{slot.name} = {slot.value!r} is not in the input"
            if any(value.startswith(f"{word} ") for word in self.leading):
                return f"{slot.name} = {slot.value!r} begins with a word that the task leaves out"
            if any(value.endswith(f" {word}") for word in self.trailing):
                return f"{slot.name} = {slot.value!r} ends with a word that the task leaves out"
        return ""


def grounded(
    rules: Mapping[str, Rule | None] | None = None, *, leading: tuple[str, ...] = (), trailing: tuple[str, ...] = ()
) -> Grounded:
    """`rules`: how the values of single slots are derived; `leading`, `trailing`: the words that text values in no rule may
    not begin or end with."""
    for name, words in (("leading", leading), ("trailing", trailing)):
        expect(f"grounded: {name}", words, Sequence[str], f'words in a list: {name}=("the", "my")')
    return Grounded(dict(rules or {}), tuple(leading), tuple(trailing))


def folded_input(judged: Judged) -> str:
    """All fields of the input as one text, folded."""
    return str(fold(" ".join(str(value) for value in judged.example.input.values() if value is not None)))


def folded_texts(judged: Judged, task: Task) -> list[tuple[Slot, str]]:
    """The text values of the answer, each with its folded form."""
    return [(slot, str(fold(slot.value))) for slot in task.output.slots(judged.value) if slot.kind == "text"]


def number(value: Any, text: str) -> bool:
    """The number stands in the text, in digits or in words."""
    digits = f"{value:g}" if isinstance(value, float) else str(value)
    return _occurs(digits, text) or any(_occurs(words, text) for words in in_words(value))


def minutes(value: Any, text: str) -> bool:
    """A length of time in minutes, as people say it: 90 is `90`, `ninety`, `an hour and a half`, `1.5 hours`."""
    hours, rest = divmod(int(value), 60)
    if number(value, text) or HALF_HOURS.get(value, "\0") in text:
        return True
    if "hour" not in text and "hr" not in text and not re.search(r"\d\s?h\b", text):
        return False
    hour_said = not hours or number(hours, text) or (hours == 1 and re.search(r"\b(an|one|1) ?h", text) is not None)
    rest_said = not rest or number(rest, text) or any(word in text for word in PARTS.get(rest, ()))
    return hour_said and rest_said


def percent(value: Any, text: str) -> bool:
    """A level in percent: digits, words, or a word for the level (`mute` 0, `half` 50, `max` 100)."""
    return number(value, text) or any(word in text for word in LEVELS.get(value, ()))


@lru_cache(maxsize=4096)
def in_words(value: float) -> tuple[str, ...]:
    """`25` -> `twenty-five`, `twenty five`."""
    from num2words import num2words

    words = num2words(value)
    return words, words.replace("-", " "), words.replace(" and ", " ")


def _occurs(value: str, text: str) -> bool:
    """As whole words: `an` is not in `banana`. No pattern: to compile one for each value takes longer than all the rest."""
    at = text.find(value)
    while at >= 0:
        end = at + len(value)
        joined_left = value[0].isalnum() and at > 0 and _in_word(text[at - 1])
        joined_right = value[-1].isalnum() and end < len(text) and _in_word(text[end])
        if not joined_left and not joined_right:
            return True
        at = text.find(value, at + 1)
    return False


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
