"""New rows from old ones without a call: exchange values, say two wishes in one breath, spell otherwise.

Right by construction where a value stands in the text exactly once; a row where it does not keeps that value, and so does
one where the new value would not fit the task's models or would tear another value (a name within a message's body).
"""

import random
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from workbench.declaration import Task
from workbench.digest import digest
from workbench.outputs import Output, ParseError, Slot
from workbench.sources.steering import Steering
from workbench.sources.values import Pools, drawn, everywhere, fits, number_span, pools_of, spans
from workbench.types import Example

JOINTS = (" and ", " then ", ", ", ". ", " and then ", ", also ", " and also ", ". oh and ", ", and ", " plus ")
JOIN_SHARE = 0.3  # of the rows made: a teacher is at its weakest where one breath holds two wishes
KEYS = "qwertyuiopasdfghjklzxcvbnm"


def recombine(
    task: Task,
    rows: Sequence[Example],
    pools: Pools,
    count: int,
    seed: int,
    *,
    join_share: float = JOIN_SHARE,
    steer: int = 1,
) -> list[Example]:
    """Up to `count` new examples with targets, none equal to another. `rows` need targets; what a person wrote is varied. Of
    `steer` that are made each time, the one whose cells hold least is taken."""
    rng = random.Random(seed)
    beside: dict[str, list[Example]] = {}  # a row's mates are those that were given the same
    for row in rows:
        beside.setdefault(digest(task.given(row.input)), []).append(row)
    if len(beside) > 1:
        own = {key: pools_of(task.output, [row.target for row in mates]) for key, mates in beside.items()}
    else:
        own = dict.fromkeys(beside, pools)

    def drawn() -> Example | None:
        row = rng.choice(rows)
        mates = digest(task.given(row.input))
        text, target = _vary(task, row, own[mates], rng)
        if rng.random() < join_share:
            more, other_target = _vary(task, rng.choice(beside[mates]), own[mates], rng)
            joined = task.output.join(target, other_target)
            if joined is not None:
                text, target = text.rstrip(" .!?,") + rng.choice(JOINTS) + more, joined
        text, target = _respelled(task.output, text, target, rng)
        try:
            return task.example({**row.input, task.written: text}, split="new", target=target, source="recombine")
        except (ValidationError, ParseError):
            return None  # two in one breath may be longer than the task's input may be

    steering = Steering(task.output, [row.target for row in rows])
    made: dict[str, Example] = {}
    known = {row.id for row in rows}
    for _ in range(count * 4):
        if len(made) >= count:
            break
        found = [
            one for _ in range(steer) if (one := drawn()) is not None and one.id not in known and one.id not in made
        ]
        if found:
            example = steering.neediest(found, lambda one: one.target)
            made[example.id] = example
            steering.take(example.target)
    return list(made.values())


def _vary(task: Task, row: Example, pools: Pools, rng: random.Random) -> tuple[str, Any]:
    """What a person wrote and its answer, with values exchanged in both alike."""
    output = task.output
    text, target = str(row.input[task.written]), row.target
    for slot in output.slots(target):
        if rng.random() > 0.75:
            continue
        new = drawn(slot, pools, rng)
        if new is None:
            continue
        if slot.kind == "text":
            found = spans(slot.value, text)
            if len(found) != 1:
                continue
            new = _cased(new, text)
            start, end = found[0]
            said, answer = new, everywhere(output, output.replace(target, slot.path, new), slot.value, new)
        else:
            place = number_span(slot.value, text)
            if place is None:
                continue
            (start, end), digits = place
            said, answer = str(new) if digits else _words(new), output.replace(target, slot.path, new)
        changed = text[:start] + said + text[end:]
        if fits(output, answer) and _standing(output, answer, changed) >= _standing(output, target, text):
            text, target = changed, answer
    return text, target


def _standing(output: Output, answer: Any, text: str) -> int:
    """How many of the answer's values stand in the text."""
    return sum(bool(_places(slot, text)) for slot in output.slots(answer))


def _places(slot: Slot, text: str) -> list[tuple[int, int]]:
    if slot.kind == "text":
        return spans(slot.value, text)
    place = number_span(slot.value, text) if slot.kind == "number" else None
    return [place[0]] if place else []


def _respelled(output: Output, text: str, target: Any, rng: random.Random) -> tuple[str, Any]:
    """Sometimes all in lower case, sometimes a slip of the finger outside of the values."""
    if rng.random() < 0.3:
        text = text.lower()
        for slot in output.slots(target):
            if slot.kind == "text" and spans(slot.value, text):
                target = output.replace(target, slot.path, slot.value.lower())
    if rng.random() < 0.15:
        taken = [span for slot in output.slots(target) for span in _places(slot, text)]
        free = [i for i, ch in enumerate(text) if ch.isalpha() and not any(a <= i < b for a, b in taken)]
        if free:
            at = rng.choice(free)
            text = text[:at] + rng.choice(("", text[at] * 2, rng.choice(KEYS))) + text[at + 1 :]
    return text, target


def _cased(value: str, text: str) -> str:
    return value.lower() if text == text.lower() else value


def _words(value: int) -> str:
    from num2words import num2words

    return str(num2words(value)).replace("-", " ")
