"""The task's human rows: read against the schema, given ids, splits kept as the author made them."""

from workbench.errors import DataError
from workbench.stages.context import Context, write_jsonl
from workbench.types import Example, Split

SPLITS: tuple[Split, ...] = ("seed", "dev", "test")


def run(context: Context) -> None:
    """Writes examples.jsonl. Raises DataError where a row stands in two splits."""
    rows: dict[str, Example] = {}
    for split in SPLITS:
        for example in context.task.examples(split):
            other = rows.get(example.id)
            if other is not None:
                raise DataError(
                    f"one row stands in {other.split} and in {split}: {example.input}", "take it out of one of the files"
                )
            rows[example.id] = example
    write_jsonl(context.out / "examples.jsonl", rows.values())
    for split in SPLITS:
        context.facts[split] = sum(row.split == split for row in rows.values())
