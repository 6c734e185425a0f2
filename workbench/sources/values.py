"""Exchanging the values of an answer: pools of values by slot, and places where a value stands in a text."""

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from workbench.outputs import Output, ParseError, Slot
from workbench.outputs.base import fold, replaced

NICE_NUMBERS = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    12,
    14,
    15,
    18,
    20,
    22,
    25,
    30,
    35,
    40,
    45,
    50,
    55,
    60,
    65,
    70,
    75,
    80,
    85,
    90,
)

Pools = dict[str, list[Any]]


def pools_of(output: Output, answers: Iterable[Any]) -> Pools:
    """The distinct values seen in each slot, in the order of their first sight."""
    seen: dict[str, dict[str, Any]] = defaultdict(dict)
    for answer in answers:
        for slot in output.slots(answer):
            if slot.kind == "text":
                seen[slot.name].setdefault(str(fold(slot.value)), slot.value)
    return {name: list(values.values()) for name, values in seen.items()}


def exchanged(output: Output, answer: Any, pools: Pools, rng: random.Random, share: float = 0.7) -> Any:
    """The answer with about `share` of its text values and numbers drawn anew; choices and booleans stay.

    Where the answer holds free text beside its slots (a summary), a value that it does not name word for word stays too: it
    may name it otherwise, and would then tell of another thing.
    """
    for slot in output.slots(answer):
        if rng.random() > share:
            continue
        new = drawn(slot, pools, rng)
        if new is None:
            continue
        changed = output.replace(answer, slot.path, new)
        if slot.kind == "text" and not is_code(slot.value) and holds_free_text(output, answer):
            exchanged_too = everywhere(output, changed, slot.value, new)
            if exchanged_too == changed:
                continue
            changed = exchanged_too
        if fits(output, changed):
            answer = changed
    return answer


def holds_free_text(output: Output, answer: Any) -> bool:
    """Whether it holds text that is not scored, or that a student learns aside."""
    return output.scored_chars(answer) != (0, None) or bool(output.aside(answer))


def everywhere(output: Output, answer: Any, old: str, new: str) -> Any:
    """Free text of a record (a summary) names the value too: exchange it there as well."""
    if not isinstance(answer, dict):
        return answer
    scored = {slot.path[0] for slot in output.slots(answer)}
    for key, value in answer.items():
        if isinstance(value, str) and key not in scored and len(found := spans(old, value)) == 1:
            start, end = found[0]
            answer = replaced(answer, (key,), value[:start] + new + value[end:])
    return answer


def fits(output: Output, answer: Any) -> bool:
    """Is it an answer still? A number drawn anew may be out of its bounds."""
    try:
        output.canonical(answer)
    except ParseError:
        return False
    return True


def drawn(slot: Slot, pools: Pools, rng: random.Random) -> Any:
    """Another value for the slot; None for choices. A clock time gives one, a code without blanks keeps its shape."""
    value = slot.value
    if slot.kind == "number":
        return rng.choice(NICE_NUMBERS)
    if slot.kind == "choice":
        return None
    if re.fullmatch(r"\d{1,2}:\d\d", value):
        return f"{rng.randrange(24)}:{rng.randrange(0, 60, 5):02}"
    if is_code(value):
        return "".join(str(rng.randrange(10)) if ch.isdigit() else ch for ch in value)
    return rng.choice(pools.get(slot.name) or [value])


def is_code(value: str) -> bool:
    """An order number, a clock time: digits and no blank."""
    return any(ch.isdigit() for ch in value) and not any(ch.isspace() for ch in value)


def spans(value: str, text: str) -> list[tuple[int, int]]:
    """Where the value stands in the text as whole words, whatever its case."""
    left = r"(?<!\w)" if value[:1].isalnum() else ""
    right = r"(?!\w)" if value[-1:].isalnum() else ""
    return [match.span() for match in re.finditer(left + re.escape(value) + right, text, re.IGNORECASE)]


def number_span(value: int, text: str) -> tuple[tuple[int, int], bool] | None:
    """Where a number stands, and whether in digits; None unless it stands there exactly once."""
    from num2words import num2words

    for spelling, digits in (
        (str(value), True),
        (num2words(value).replace("-", " "), False),
        (num2words(value), False),
    ):
        found = spans(spelling, text)
        if len(found) == 1:
            return found[0], digits
    return None
