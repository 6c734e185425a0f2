"""The seam between a task and everything that reads or writes its answers."""

import json
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

Tally = tuple[float, float]  # numerator and denominator; a metric over rows is the ratio of the two sums


class ParseError(ValueError):
    """A text is not an answer: `stage` says whether it is no JSON or breaks the schema."""

    def __init__(self, stage: Literal["json", "schema"], reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


Kind = Literal["text", "number", "choice"]


class Slot(NamedTuple):
    """One value of an answer, with its place: `path` reaches it, `name` is `function.argument` or the field.

    `text` is copied from the input, a `number` may stand there in words, a `choice` (enum, boolean) need not stand there.
    """

    path: tuple[str | int, ...]
    name: str
    value: Any
    kind: Kind


@runtime_checkable
class Output(Protocol):
    """How a task's answers are written, read, compared and scored. Values are plain JSON values."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of `tally`, the headline (`exact`) first."""

    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer."""

    def student_schema(self) -> dict[str, Any]:
        """The same for what a student writes, which may be less."""

    def describe(self) -> str:
        """The schema in a few short lines, for a teacher's prompt."""

    def parse(self, text: str) -> Any:
        """Text of a model -> canonical value. Raises ParseError."""

    def canonical(self, value: Any) -> Any:
        """A JSON value -> its one spelling (defaults dropped, numbers as the schema has them). Raises ParseError."""

    def dump(self, value: Any) -> str:
        """Canonical value -> the text of a whole answer."""

    def student_text(self, value: Any) -> str:
        """Canonical value -> the text that the student learns to write."""

    def aside(self, value: Any) -> str:
        """What the student learns beside it, and does not write; empty where there is nothing."""

    def scored_chars(self, value: Any) -> tuple[int, int | None]:
        """Where in `student_text(value)` the characters that count for an exact match begin and where they end; None: with
        the text."""

    def group(self, value: Any) -> str:
        """A coarse class of the value (first function, first choice field): few-shot blocks are shared within it."""

    def slots(self, value: Any) -> list[Slot]:
        """The values that are copied or derived from the input."""

    def labels(self, value: Any) -> list[str]:
        """What it says beside the values it copies: functions (`set_timer`) and choices (`get_directions.mode=walking`)."""

    def replace(self, value: Any, path: tuple[str | int, ...], new: Any) -> Any:
        """A copy with the value at `path` replaced."""

    def join(self, a: Any, b: Any) -> Any | None:
        """The answer to two inputs said in one breath; None where answers cannot be joined."""

    def same(self, a: Any, b: Any) -> bool:
        """Do two canonical values ask for the same?"""

    def tally(self, value: Any, target: Any) -> dict[str, Tally]:
        """Score of one answer against its target; `value` is None where the text did not parse."""


def read_json(text: str) -> Any:
    """The whole text must be one JSON value: prose around it is an error, as it would be on the device."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except ValueError as error:
        raise ParseError("json", f"not JSON: {error}") from None
    except RecursionError:  # a small model that loops writes bracket after bracket
        raise ParseError("json", "not JSON: nested too deep") from None


def _no_constant(name: str) -> Any:
    """Python reads NaN and Infinity; JSON has neither."""
    raise ValueError(f"{name} is no JSON number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two values of one key, other readers the first: such an object says nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fold(value: Any) -> Any:
    """How values are compared: text without regard to case, width of blanks or Unicode form; all else as it is."""
    if isinstance(value, str):
        return _folded(value)
    if isinstance(value, Mapping):
        return {key: fold(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [fold(item) for item in value]
    return value


@lru_cache(maxsize=4096)
def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def validated(model: type[BaseModel], value: Any, where: str) -> dict[str, Any]:
    """Read `value` with the model, as JSON (so "10" and 10.0 are a whole number where the schema has one)."""
    try:
        return model.model_validate(value).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
        raise ParseError("schema", f"{place}: {first['msg']}") from None


def inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A model's JSON schema with its definitions (enum classes, models within models) put where they are named."""
    definitions = schema.get("$defs", {})

    def walk(node: Any, inside: frozenset[str]) -> Any:
        if isinstance(node, list):
            return [walk(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if name in definitions and name not in inside:
            rest = {key: item for key, item in node.items() if key != "$ref"}
            return {**walk(definitions[name], inside | {name}), **walk(rest, inside)}
        return {key: walk(item, inside) for key, item in node.items() if key != "$defs"}

    whole: dict[str, Any] = walk(dict(schema), frozenset())
    return whole


def short_type(schema: Mapping[str, Any]) -> str:
    """A field's JSON schema in a word or two: `text`, `1-1440`, `a|b`, `true|false`."""
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if options:
        return "|".join(short_type(option) for option in options)
    if "enum" in schema:
        return "|".join(str(item) for item in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "any")
    if kind in ("integer", "number") and ("minimum" in schema or "maximum" in schema):
        return f"{schema.get('minimum', '')}-{schema.get('maximum', '')}"
    names = {"string": "text", "boolean": "true|false", "integer": "whole number"}
    return names.get(kind, str(kind)) if isinstance(kind, str) else "any"


def kind_of(schema: Mapping[str, Any]) -> Kind:
    """What a field's JSON schema makes of its values."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if all(option.get("type") in ("integer", "number") for option in options):
        return "number"
    free = all(option.get("type") == "string" and not {"enum", "const"} & set(option) for option in options)
    return "text" if free else "choice"


def choices(slots: Iterable[Slot]) -> list[str]:
    """As labels: `urgency=high`, `toggle_setting.on=true`."""
    return [f"{slot.name}={str(slot.value).lower()}" for slot in slots if slot.kind == "choice"]


def replaced(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """A deep copy of a JSON value with one place changed."""
    if not path:
        return new
    head, *rest = path
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[head] = replaced(copy[head], tuple(rest), new)
    return copy
