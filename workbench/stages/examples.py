"""The task's human rows: read against the schema, given ids, splits kept as the author made them."""

from workbench.digest import digest
from workbench.errors import DataError
from workbench.outputs.base import fold
from workbench.stages.context import Context, write_jsonl
from workbench.types import SPLITS, Example


def run(context: Context) -> None:
    """Writes examples.jsonl. Raises DataError where a row, letter case apart, or a group stands in two splits. A corpus is
    read, and not written: what is wrong with it is told before a model is loaded."""
    rows: dict[str, Example] = {}
    groups: dict[str, Example] = {}
    for split in SPLITS:
        for example in context.task.examples(split):
            key = digest(fold(example.input))
            if key in rows:
                raise DataError(
                    f"one row stands in {rows[key].split} and in {split}: {example.input}",
                    "take it out of one of the files",
                )
            rows[key] = example
            first = groups.setdefault(example.group, example)
            if example.group and first.split != split:
                raise DataError(
                    f"the group {example.group!r} stands in {first.split} and in {split}: {example.input}",
                    "keep its rows in one of the files; `workbench split` does",
                )
    if "corpus" in context.task.sources:
        context.task.corpus()
    write_jsonl(context.out / "examples.jsonl", rows.values())
