"""Function calling: an answer is a list of calls, `[{"name": "set_timer", "arguments": {"minutes": 10}}]`.

Functions are pydantic models: the class name in snake case is the function's name, the docstring its description, the
fields its arguments. A field with a default is optional and left out of the answer when it has its default.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from workbench.declared import expect, nearest
from workbench.errors import TaskError
from workbench.outputs.base import (
    ParseError,
    Slot,
    Tally,
    choices,
    compact,
    fold,
    inlined,
    kind_of,
    read_json,
    replaced,
    short_type,
    validated,
)


class Calls:
    """A list of calls to `functions`; `ordered` says whether the order of the calls matters. Raises TaskError where functions
    are none, or two of one name."""

    metrics = ("exact", "name", "argument_f1")

    def __init__(self, functions: Sequence[type[BaseModel]], *, ordered: bool = True, max_calls: int = 3) -> None:
        expect("Calls.functions", functions, Sequence[type[BaseModel]], "their classes in a list: Calls([SwitchLight])")
        self.functions = {_snake(model.__name__): model for model in functions}
        if len(self.functions) < max(1, len(functions)):
            told = [_snake(model.__name__) for model in functions]
            twice = next((name for name in told if told.count(name) > 1), "")
            said = f"two functions are called {twice}" if twice else "there is no function"
            raise TaskError(f"Calls.functions: {said}", "give each function a class of its own, and a name")
        self._kinds = {
            name: {key: kind_of(spec) for key, spec in _arguments_schema(model)["properties"].items()}
            for name, model in self.functions.items()
        }
        self._defaults = {
            name: {key: field.get_default() for key, field in model.model_fields.items() if not field.is_required()}
            for name, model in self.functions.items()
        }
        self.ordered = ordered
        self.max_calls = max_calls

    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer; arguments with a default are optional."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": name}, "arguments": _arguments_schema(model)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name, model in self.functions.items()
        ]
        return {"type": "array", "items": {"anyOf": calls}, "maxItems": self.max_calls}

    def describe(self) -> str:
        """One line a function: `set_timer(minutes: 1-1440, label?: text)  Start a countdown.`"""
        lines = []
        for name, model in self.functions.items():
            schema = _arguments_schema(model)
            required = schema.get("required", [])
            fields = ", ".join(
                f"{field}{'' if field in required else '?'}: {short_type(spec)}"
                for field, spec in schema["properties"].items()
            )
            doc = (model.__doc__ or "").strip().split("\n")[0]
            lines.append(f"{name}({fields}) {doc}".rstrip())
        return "\n".join(lines)

    def parse(self, text: str) -> Any:
        return self.canonical(read_json(text))

    def canonical(self, value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise ParseError("schema", "the answer is not a list of calls")
        if len(value) > self.max_calls:
            raise ParseError("schema", f"{len(value)} calls, at most {self.max_calls} are allowed")
        return [self._call(item, place) for place, item in enumerate(value)]

    def _call(self, item: Any, place: int) -> dict[str, Any]:
        if not isinstance(item, dict) or set(item) != {"name", "arguments"}:
            raise ParseError("schema", f"call {place}: must have exactly `name` and `arguments`")
        name, arguments = item["name"], item["arguments"]
        model = self.functions.get(name) if isinstance(name, str) else None
        if model is None:
            near = nearest(name, self.functions) if isinstance(name, str) else ""
            said = f"no function is called {name!r}" + (f", did you mean {near!r}?" if near else "")
            raise ParseError("schema", f"call {place}: {said}")
        if not isinstance(arguments, dict):
            raise ParseError("schema", f"call {place}: `arguments` is not an object")
        unknown = sorted(arguments.keys() - self._kinds[name].keys())
        if unknown and model.model_config.get("extra") != "allow":
            raise ParseError("schema", f"{name} has no argument {unknown[0]!r}")
        full, defaults = validated(model, arguments, name), self._defaults[name]
        kept = {key: item for key, item in full.items() if key not in defaults or item != defaults[key]}
        return {"name": name, "arguments": {key: item for key, item in kept.items() if item is not None}}

    def student_schema(self) -> dict[str, Any]:
        return self.schema()

    def dump(self, value: Any) -> str:
        return compact(value)

    def student_text(self, value: Any) -> str:
        return self.dump(value)

    def aside(self, value: Any) -> str:
        return ""

    def scored_chars(self, value: Any) -> tuple[int, int | None]:
        return 0, None

    def group(self, value: Any) -> str:
        return str(value[0]["name"]) if value else "none"

    def slots(self, value: Any) -> list[Slot]:
        return [
            Slot((place, "arguments", key), f"{call['name']}.{key}", item, self._kinds[call["name"]].get(key, "text"))
            for place, call in enumerate(value)
            for key, item in call["arguments"].items()
        ]

    def labels(self, value: Any) -> list[str]:
        return [*(call["name"] for call in value), *choices(self.slots(value))]

    def replace(self, value: Any, path: tuple[str | int, ...], new: Any) -> Any:
        return replaced(value, path, new)

    def join(self, a: Any, b: Any) -> Any | None:
        return [*a, *b] if a and b and len(a) + len(b) <= self.max_calls else None

    def same(self, a: Any, b: Any) -> bool:
        return bool(self._comparable(a) == self._comparable(b))

    def _comparable(self, value: Any) -> Any:
        folded = fold(value)
        return folded if self.ordered else sorted(folded, key=compact)

    def tally(self, value: Any, target: Any) -> dict[str, Tally]:
        """Exact match, equality of the function names, and the counts of argument F1 (a wrong call costs its arguments)."""
        calls = value if value is not None else []
        parsed = value is not None
        names, wanted = ([call["name"] for call in item] for item in (calls, target))
        if not self.ordered:
            names, wanted = sorted(names), sorted(wanted)
        have, want = _triples(calls), _triples(target)
        hits = sum((have & want).values())
        return {
            "exact": (float(parsed and self.same(value, target)), 1.0),
            "name": (float(parsed and names == wanted), 1.0),
            "argument_f1": (2.0 * hits, float(sum(have.values()) + sum(want.values()))),
        }


def _triples(calls: Any) -> Counter[str]:
    return Counter(
        compact([call["name"], key, fold(item)]) for call in calls for key, item in call["arguments"].items()
    )


def _arguments_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = inlined(model.model_json_schema())
    properties = {key: _plain(spec) for key, spec in schema.get("properties", {}).items()}
    return {
        "type": "object",
        "properties": properties,
        "required": schema.get("required", []),
        "additionalProperties": schema.get("additionalProperties", False),
    }


def _plain(spec: dict[str, Any]) -> dict[str, Any]:
    """Without titles and defaults, and without null as a choice: an argument that is not said is left out instead."""
    kept = {key: item for key, item in spec.items() if key not in ("title", "default", "anyOf")}
    options = [_plain(option) for option in spec.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
