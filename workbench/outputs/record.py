"""Extraction and routing: an answer is one typed record, `{"queue": "billing", "order_number": null, ...}`.

Fields named in `ignore` (free text such as a summary) are written last and are no part of exact match. Nor are those named in
`rationale`, which are written first: what is said there, the rest of the answer is drawn from. With `aside` a teacher alone
writes a rationale; the student learns it beside the answer, behind a prompt of its own (Hsieh et al. 2023, Distilling
step-by-step, arXiv:2305.02301).
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from workbench.declared import expect, one_of
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


class Record:
    """One record of `model`; `ignore` and `rationale` name the fields that are not scored, `group_by` the field that rows are
    grouped by (a number by how many digits it has before the point). With `aside` each field of the rationale wants a default,
    for the student's answers do without; raises TypeError where one has none, or where there is no rationale. Raises TaskError
    where the model has no field of a name, or none that is scored."""

    metrics = ("exact", "field_accuracy")

    def __init__(
        self,
        model: type[BaseModel],
        *,
        ignore: Sequence[str] = (),
        rationale: Sequence[str] = (),
        group_by: str | None = None,
        aside: bool = False,
    ) -> None:
        expect("Record.model", model, type[BaseModel], "the class of the record: Record(Ticket)")
        for place, names in (
            ("ignore", ignore),
            ("rationale", rationale),
            ("group_by", [group_by] if group_by else []),
        ):
            expect(f"Record.{place}", names, Sequence[str], f'names of fields in a list: {place}=["summary"]')
            missing = [name for name in names if name not in model.model_fields]
            if missing:
                known = tuple(model.model_fields)
                raise TaskError(
                    f"Record.{place}: {model.__name__} has no field {missing[0]!r}", one_of(missing[0], known)
                )
        self.model = model
        self.ignore = tuple(ignore)
        self.rationale = tuple(rationale)
        self.scored = tuple(name for name in model.model_fields if name not in (*self.ignore, *self.rationale))
        if not self.scored:
            raise TaskError(f"Record: no field of {model.__name__} is scored", "leave one out of ignore and rationale")
        self.order = (*self.rationale, *self.scored, *self.ignore)
        if aside and not rationale:
            raise TypeError(f"{model.__name__}: what is learned aside is the rationale, and none is named")
        self._asides = self.rationale if aside else ()
        self._spoken = tuple(name for name in self.order if name not in self._asides)
        for name in self._asides:
            if model.model_fields[name].is_required():
                raise TypeError(f'{model.__name__}.{name} is learned aside, and wants a default: {name}: str = ""')
        self.group_by = group_by or self.scored[0]
        self._kinds = {name: kind_of(spec) for name, spec in self.schema()["properties"].items()}

    def schema(self) -> dict[str, Any]:
        """JSON schema of the record, every field required: the rationale, the scored fields, the others."""
        return self._schema(self.order)

    def student_schema(self) -> dict[str, Any]:
        return self._schema(self._spoken)

    def _schema(self, names: Sequence[str]) -> dict[str, Any]:
        schema = inlined(self.model.model_json_schema())
        order = list(names)
        properties = {name: _untitled(schema["properties"][name]) for name in order}
        return {"type": "object", "properties": properties, "required": order, "additionalProperties": False}

    def describe(self) -> str:
        """One line a field: `queue: billing|delivery  What has to be done.`"""
        schema = self.schema()["properties"]
        lines = []
        for name, field in self.model.model_fields.items():
            null = any(option.get("type") == "null" for option in schema[name].get("anyOf", []))
            note = f"  {field.description}" if field.description else ""
            lines.append(f"{name}: {short_type(schema[name])}{' or null' if null else ''}{note}")
        return "\n".join(lines)

    def parse(self, text: str) -> Any:
        return self.canonical(read_json(text))

    def canonical(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ParseError("schema", "the answer is not a record")
        extra = sorted(set(value) - set(self.model.model_fields))
        if extra:
            raise ParseError("schema", f"no field is called {extra[0]!r}")
        full = validated(self.model, value, "")
        return {name: full[name] for name in self.order}

    def dump(self, value: Any) -> str:
        return compact(value)

    def student_text(self, value: Any) -> str:
        return compact({name: value[name] for name in self._spoken})

    def aside(self, value: Any) -> str:
        said = (value[name] for name in self._asides)
        return "\n".join(each if isinstance(each, str) else compact(each) for each in said if each)

    def scored_chars(self, value: Any) -> tuple[int, int | None]:
        first = {name: value[name] for name in self.rationale if name in self._spoken}
        start = len(compact(first)) - 1 if first else 0
        counted = {**first, **{name: value[name] for name in self.scored}}
        return start, len(compact(counted)) - 1 if self.ignore else None

    def group(self, value: Any) -> str:
        found = value[self.group_by]
        if found is not None and self._kinds[self.group_by] == "number":
            return f"{len(str(abs(int(found))))} digits"
        return str(found)

    def slots(self, value: Any) -> list[Slot]:
        return [Slot((name,), name, value[name], self._kinds[name]) for name in self.scored if value[name] is not None]

    def labels(self, value: Any) -> list[str]:
        return choices(self.slots(value))

    def replace(self, value: Any, path: tuple[str | int, ...], new: Any) -> Any:
        return replaced(value, path, new)

    def join(self, a: Any, b: Any) -> Any | None:
        return None

    def same(self, a: Any, b: Any) -> bool:
        return all(fold(a[name]) == fold(b[name]) for name in self.scored)

    def tally(self, value: Any, target: Any) -> dict[str, Tally]:
        """Exact match over the scored fields, and the share of scored fields that are right."""
        if value is None:
            return {"exact": (0.0, 1.0), "field_accuracy": (0.0, float(len(self.scored)))}
        right = sum(fold(value[name]) == fold(target[name]) for name in self.scored)
        return {
            "exact": (float(right == len(self.scored)), 1.0),
            "field_accuracy": (float(right), float(len(self.scored))),
        }


def _untitled(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in spec.items() if key not in ("title", "default", "description")}
