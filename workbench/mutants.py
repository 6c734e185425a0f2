"""Wrong answers made from right ones, to see what validators let through. No model, and the same for the same `rng`.

    form      prose around it, cut off, wrong type
    values    left out, null, wrong number or choice, a text from elsewhere, from the input, two texts swapped
    calls     unknown function, wrong function, dropped, added, repeated, reordered

A mutant differs from its target as the task's output compares them, yet a few are answers a person would accept too (a
longer stretch of the input, say). Values are drawn so that the schema has nothing against them, where there are such.
"""

import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from workbench.outputs import Calls, Output, ParseError, Slot
from workbench.outputs.base import fold
from workbench.types import Example

KINDS = (
    "prose around it", "cut off", "wrong type",
    "value left out", "value set to null", "wrong number", "wrong choice",
    "text from elsewhere", "text from the input", "two texts swapped",
    "unknown function", "wrong function", "call dropped", "call added", "call repeated", "calls reordered",
)  # fmt: skip
FOREIGN = ("marble owl", "the seventh lantern", "Quillon 88")  # texts of last resort, found in no sane input
UNKNOWN = "do_what_is_meant"


class Mutant(NamedTuple):
    """`kind` says what was done to the known-good answer, `text` is what came of it."""

    kind: str
    text: str


def mutants(output: Output, example: Example, rng: random.Random, others: Sequence[Any] = ()) -> Iterator[Mutant]:
    """All mutants of the example's target, no two alike. `others`: answers to other inputs, to draw values from."""
    seen = set()
    for kind, text in itertools.chain(
        _forms(output, example.target, rng),
        _values(output, example, rng, others),
        _calls(output, example.target, rng, others) if isinstance(output, Calls) else (),
    ):
        if text not in seen and not _same(output, text, example.target):
            seen.add(text)
            yield Mutant(kind, text)


def _same(output: Output, text: str, target: Any) -> bool:
    try:
        return output.same(output.parse(text), target)
    except ParseError:
        return False


def _first(output: Output, target: Any, answers: Iterable[Any]) -> str | None:
    """The first answer that fits the schema and is not the target's equal."""
    for text in map(output.dump, answers):
        try:
            value = output.parse(text)
        except ParseError:
            continue
        if not output.same(value, target):
            return text
    return None


def _forms(output: Output, target: Any, rng: random.Random) -> Iterator[Mutant]:
    text = output.dump(target)
    for wrapped in (f"Sure! {text}", f"{text}\nLet me know if you need more.", f"```json\n{text}\n```"):
        yield Mutant("prose around it", wrapped)
    if len(text) > 1:
        yield Mutant("cut off", text[: rng.randrange(1, len(text))])
    for slot in output.slots(target):
        wrong = 7 if isinstance(slot.value, str | list) else "many"
        yield Mutant("wrong type", output.dump(output.replace(target, slot.path, wrong)))


def _values(output: Output, example: Example, rng: random.Random, others: Sequence[Any]) -> Iterator[Mutant]:
    target = example.target
    slots = output.slots(target)
    for slot in slots:
        yield Mutant("value left out", output.dump(_without(target, slot.path)))
        if isinstance(target, dict):  # in a call, null is one more way to leave an argument out
            yield Mutant("value set to null", output.dump(output.replace(target, slot.path, None)))
        for kind, options in _wrong(output, slot, example, rng, others):
            text = _first(output, target, (output.replace(target, slot.path, option) for option in options))
            if text is not None:
                yield Mutant(kind, text)
    texts = [slot for slot in slots if slot.kind == "text"]
    for a, b in itertools.combinations(texts, 2):
        swapped = output.replace(output.replace(target, a.path, b.value), b.path, a.value)
        yield Mutant("two texts swapped", output.dump(swapped))


def _wrong(
    output: Output, slot: Slot, example: Example, rng: random.Random, others: Sequence[Any]
) -> Iterator[tuple[str, list[Any]]]:
    """What else might stand in this slot, by kind of mistake, the options in the order to try them."""
    if slot.kind == "number":
        yield "wrong number", [*_shuffled([slot.value + 1, slot.value - 1, slot.value + 5, slot.value * 2], rng), 0, 1]
    elif slot.kind == "choice":
        flipped = [not slot.value] if isinstance(slot.value, bool) else []
        yield "wrong choice", flipped or _shuffled(_choices(output.schema(), slot.value), rng)
    else:
        said = str(fold(" ".join(_texts(example.input))))
        seen = (item.value for other in others for item in output.slots(other) if item.name == slot.name)
        foreign = sorted({value for value in seen if isinstance(value, str) and str(fold(value)) not in said})
        yield "text from elsewhere", [*_shuffled(foreign, rng), *FOREIGN]
        length = len(str(slot.value).split())
        yield "text from the input", _shuffled(_stretches(example.input, length), rng)


def _calls(output: Calls, target: list[Any], rng: random.Random, others: Sequence[Any]) -> Iterator[Mutant]:
    for place, call in enumerate(target):
        yield Mutant("unknown function", output.dump(output.replace(target, (place, "name"), UNKNOWN)))
        yield Mutant("wrong function", output.dump(_renamed(output, target, place, rng)))
        yield Mutant("call dropped", output.dump(_without(target, (place,))))
        yield Mutant("call repeated", output.dump([*target[: place + 1], call, *target[place + 1 :]]))
    more = _shuffled([call for other in others for call in other], rng)
    text = _first(output, target, ([*target, call] for call in more if call not in target))
    if text is not None:
        yield Mutant("call added", text)
    if len(target) > 1:
        yield Mutant("calls reordered", output.dump(target[::-1]))


def _renamed(output: Calls, target: list[Any], place: int, rng: random.Random) -> list[Any]:
    """Another function for one call: where there is one, a function that takes the same values under its own names."""
    call = target[place]
    names = _shuffled([name for name in output.functions if name != call["name"]], rng)
    values = call["arguments"].values()
    for name in names:
        for arguments in (call["arguments"], dict(zip(output.functions[name].model_fields, values, strict=False))):
            answer: list[Any] = output.replace(target, (place,), {"name": name, "arguments": arguments})
            try:
                fitted = output.canonical(answer)[place]["arguments"]
            except ParseError:
                continue
            if len(fitted) == len(values):
                return answer
    wrong: list[Any] = output.replace(target, (place, "name"), names[0] if names else UNKNOWN)
    return wrong


def _without(value: Any, path: tuple[str | int, ...]) -> Any:
    whole = copy.deepcopy(value)
    node = whole
    for part in path[:-1]:
        node = node[part]
    del node[path[-1]]
    return whole


def _choices(schema: Any, value: Any) -> list[Any]:
    """All members of the enums, anywhere in the schema, that have `value` as one. Which fit here, the parser knows."""
    if isinstance(schema, list):
        return [choice for item in schema for choice in _choices(item, value)]
    if not isinstance(schema, dict):
        return []
    here = schema.get("enum")
    own = here if isinstance(here, list) and value in here else []
    return [*own, *(choice for item in schema.values() for choice in _choices(item, value))]


def _stretches(input_: dict[str, Any], length: int) -> list[str]:
    """Runs of `length` words of the input (of one word, where it is not long enough to hold another run)."""
    words = " ".join(_texts(input_)).split()
    length = length if length < len(words) else 1
    runs = (" ".join(words[i : i + length]).strip(".,;:!?\"'()") for i in range(len(words) - length + 1))
    return [run for run in runs if run]


def _texts(input_: dict[str, Any]) -> list[str]:
    return [value for value in input_.values() if isinstance(value, str)]


def _shuffled(items: Sequence[Any], rng: random.Random) -> list[Any]:
    return rng.sample(items, len(items))
