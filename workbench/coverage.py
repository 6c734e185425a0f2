"""The answers a task can give, as cells, and how many rows of each set fall into each: seeds, a run's shard, dev.

A cell is a function or a choice (`toggle_setting`, `get_directions.mode=walking`), a value with its class
(`set_timer.minutes 10-99`, `send_message.body 4+ words`), or how many calls an answer has (`2 calls`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.declaration import Task
from workbench.errors import DataError
from workbench.outputs import Output, ParseError, Slot

THIN = 3  # rows of a shard that are too few to learn a cell from


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


def counted(output: Output, answers: Iterable[Any]) -> Counter[str]:
    return Counter(cell for answer in answers for cell in cells(output, answer))


def shard_answers(task: Task, rows: Path) -> Iterator[Any]:
    """The answers of a shard's rows.jsonl. Raises DataError where one is none of the task's any more."""
    with rows.open(encoding="utf-8") as handle:
        for line in handle:
            try:
                yield task.output.parse(json.loads(line)["completion"])
            except ParseError as error:
                hint = "run the task again, or name another --run"
                raise DataError(
                    f"the shard was made for another output than the task's own of today: {error}", hint
                ) from None


def told(task: Task, rows: Path | None) -> Iterator[str]:
    """A table in lines, and which cells are empty or thin. `rows` is a run's shard, where there is one."""
    sets = {"seeds": counted(task.output, (seed.target for seed in task.examples("seed")))}
    if rows is not None:
        sets["shard"] = counted(task.output, shard_answers(task, rows))
    sets["dev"] = counted(task.output, (row.target for row in task.examples("dev")))
    names = sorted({*possible(task.output.schema()), *(cell for found in sets.values() for cell in found)})
    wide = max(map(len, names), default=0)
    yield f"{'cell':{wide}}" + "".join(f"{name:>8}" for name in sets)
    for name in names:
        yield f"{name:{wide}}" + "".join(f"{found[name]:8,}" for found in sets.values())
    taught = sets.get("shard", sets["seeds"])
    where = "the shard" if rows is not None else "the seeds"
    thin = [f"{name} ({taught[name]})" for name in names if taught[name] < THIN <= sets["dev"][name]]
    empty = [name for name in names if not any(found[name] for found in sets.values())]
    yield f"{len(names)} cells; less than {THIN} rows of {where}, but as many or more of dev: {', '.join(thin) or 'none'}"
    yield f"in no row at all: {', '.join(empty) or 'none'}"


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
