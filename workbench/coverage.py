"""The answers a task can give, as cells, and how many rows of each set fall into each: seeds, a run's shard, dev."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.declaration import Task
from workbench.errors import DataError
from workbench.outputs import ParseError
from workbench.outputs.cells import counted, possible

THIN = 3  # rows of a shard that are too few to learn a cell from


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
