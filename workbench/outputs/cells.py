"""The cells that an answer falls into: what an output can say, and how much of it a set of answers says.

A cell is a function or a choice (`toggle_setting`, `get_directions.mode=walking`), a value with its class
(`set_timer.minutes 10-99`, `send_message.body 4+ words`), or how many calls an answer has (`2 calls`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workbench.outputs.base import Output, Slot


def cells(output: Output, value: Any) -> set[str]:
    """The cells that one answer falls into."""
    found = {*output.labels(value), *(_classed(slot) for slot in output.slots(value) if slot.kind != "choice")}
    return found | {f"{len(value)} call{'' if len(value) == 1 else 's'}"} if isinstance(value, list) else found


def possible(schema: Mapping[str, Any]) -> Iterator[str]:
    """The functions and choices that the output's JSON schema names, said by a row or not."""
    for call in schema.get("items", {}).get("anyOf", []):
        name = call["properties"]["name"]["const"]
        yield name
        yield from _choices(f"{name}.", call["properties"]["arguments"]["properties"])
    yield from _choices("", schema.get("properties", {}))


def slot_names(schema: Mapping[str, Any]) -> list[str]:
    """The arguments and fields that it names, as slots are called; none where a function takes arguments of any name."""
    calls = [call["properties"] for call in schema.get("items", {}).get("anyOf", [])]
    if any(call["arguments"].get("additionalProperties") for call in calls):
        return []
    named = [f"{call['name']['const']}.{key}" for call in calls for key in call["arguments"]["properties"]]
    return [*named, *schema.get("properties", {})]


def impossible(schema: Mapping[str, Any], labels: Iterable[str]) -> list[str]:
    """Those that no answer has. Where a slot's choices are not listed, any may be one."""
    known = set(possible(schema))
    listed = {label.partition("=")[0] for label in known}
    open_ = set(slot_names(schema)) - listed
    return [label for label in labels if known and label not in known and label.partition("=")[0] not in open_]


def counted(output: Output, answers: Iterable[Any]) -> Counter[str]:
    return Counter(cell for answer in answers for cell in cells(output, answer))


def _classed(slot: Slot) -> str:
    if slot.kind == "number":
        digits = len(str(abs(int(slot.value))))
        return f"{slot.name} {'0-9' if digits == 1 else '10-99' if digits == 2 else '100+'}"
    words = len(str(slot.value).split())
    return f"{slot.name} {'1 word' if words < 2 else '2-3 words' if words < 4 else '4+ words'}"


def _choices(prefix: str, properties: Mapping[str, Any]) -> Iterator[str]:
    for name, spec in properties.items():
        for option in (spec, *spec.get("anyOf", [])):
            values = [True, False] if option.get("type") == "boolean" else option.get("enum", [])
            yield from (f"{prefix}{name}={str(value).lower()}" for value in values)
