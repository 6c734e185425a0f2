"""A run's candidates with their verdicts as a folder that `datasets.load_dataset` reads.

    <folder>/data/train-00000-of-00001.parquet    one row a candidate, what failed among them (or .jsonl)
    <folder>/README.md                            the dataset card: licence, task, rows by outcome, what each column is

An input's fields become columns `input_<field>`. One that holds anything but text, numbers or truth values is written as JSON.
The licence is the teacher's, as the run names it; whether its terms allow sharing is for the user to know.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import ConfigError, StoreError
from workbench.report.markdown import HUB_LICENCES, code, table, text
from workbench.runs import Lock, candidates_of, read_lock
from workbench.stages.context import read_jsonl
from workbench.types import Check, Judgement

FORMATS = ("parquet", "jsonl")
PLAIN: dict[type[Any], str] = {str: "string", bool: "bool", int: "int64", float: "float64"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
CHECKS = "checks"
MEANT = {
    "id": "the input's id: of all candidates for one input, the same",
    "text": "the candidate, as the teacher wrote it (of an inverse wish: the answer that an input was asked for)",
    "outcome": "`pass`, `fail` (the candidate's fault) or `error` (a validator's own crash)",
    "reason": "what ended it, empty where it passed",
    CHECKS: "each validator that looked at it, with its outcome and reason; the first that is not `pass` ends the row",
    "source": "what asked for it: `inverse`, `forward`, `corpus`, `attempted` (the student failed); `student`: its own",
    "call": "the teacher call that it came from, by its key in the ledger",
    "teacher": "who wrote it",
    "licence": "under what, as the run names it",
    "logprob": "mean log-probability of a token of the teacher's own answer, in nats, where its runtime tells it",
}
CARD = """\
---
{head}
---

# {title}

What {teachers} wrote for the task {task}, each with what the task's validators said of it.
What failed is here too: filter by `outcome` before you train on it.

{outcomes}

{ended}

```python
from datasets import load_dataset

rows = load_dataset("FOLDER", split="train")
```

## Columns

{columns}

## Where it comes from

Run {run} of the distillation workbench: {command}

Licence of what the teacher wrote, as the run names it: {licences}. Nobody has judged here whether its terms allow sharing.
"""


class Rows(NamedTuple):
    """`kinds` are the columns and their types, by the names that Arrow and Hugging Face both have for them; `CHECKS` stands
    for a list of checks. `as_json` are the columns that hold JSON."""

    kinds: dict[str, str]
    as_json: tuple[str, ...]
    rows: list[dict[str, Any]]


def export(run: Path, to: Path, form: str = "") -> str:
    """Writes the folder, whole or not at all; gives a sentence on what it holds. `form`: Parquet where pyarrow is there.

    Raises ConfigError on a format that is not to be had, StoreError where the run has no candidates, or `to` holds something.
    """
    form = form or ("parquet" if find_spec("pyarrow") else "jsonl")
    if form not in FORMATS:
        raise ConfigError(f"there is no format {form!r} to export to", " or ".join(FORMATS))
    if form == "parquet" and not find_spec("pyarrow"):
        raise ConfigError("Parquet wants pyarrow, which is not installed", "pip install pyarrow, or --format jsonl")
    to = to.resolve()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise StoreError(f"{to} is there already, and is left as it is", "give --to a folder that is new or empty")
    lock = read_lock(run)
    judged = list(read_jsonl(candidates_of(run), Judgement))
    found = flat(judged)
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        (part / "data").mkdir(parents=True)
        (_write_parquet if form == "parquet" else _write_jsonl)(part / "data" / f"train-00000-of-00001.{form}", found)
        (part / "README.md").write_text(_card(run, lock, judged, found), encoding="utf-8")
        part.replace(to)
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {error}", "make room, or give --to another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    counted = ", ".join(f"{count:,} {outcome}" for outcome, count in _outcomes(judged).items())
    return f"{to}: {len(judged):,} candidates ({counted}) as {form}"


def flat(judged: Sequence[Judgement]) -> Rows:
    """One row a candidate. A field that an input does not have is None in its row."""
    fields = list(dict.fromkeys(field for item in judged for field in item.candidate.example.input))
    found = {field: _kind([item.candidate.example.input.get(field) for item in judged]) for field in fields}
    kinds = {
        "id": "string",
        **{f"input_{field}": kind or "string" for field, kind in found.items()},
        **{name: "string" for name in MEANT if name != "id"},
        CHECKS: CHECKS,
        "logprob": "float64",
    }
    return Rows(
        kinds=kinds,
        as_json=tuple(f"input_{field}" for field, kind in found.items() if not kind),
        rows=[_row(item, found) for item in judged],
    )


def _row(item: Judgement, fields: dict[str, str]) -> dict[str, Any]:
    candidate, verdict = item.candidate, item.verdict
    given = {field: candidate.example.input.get(field) for field in fields}
    return {
        "id": candidate.example.id,
        **{
            f"input_{field}": value if fields[field] or value is None else json.dumps(value, ensure_ascii=False)
            for field, value in given.items()
        },
        "text": candidate.text,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        CHECKS: [check.model_dump() for check in verdict.checks],
        "source": candidate.source,
        "call": candidate.call,
        "teacher": item.teacher,
        "licence": item.licence,
        "logprob": candidate.logprob,
    }


def _kind(values: Sequence[Any]) -> str:
    """The type of a column that holds such values, None apart; "" where it has to be JSON."""
    kinds = {type(value) for value in values if value is not None}
    if int in kinds and any(abs(value) >= 2**63 for value in values if type(value) is int):
        return ""
    if kinds == {int, float}:
        return PLAIN[float]
    return PLAIN.get(kinds.pop(), "") if len(kinds) == 1 else ""


def _write_jsonl(path: Path, found: Rows) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for row in found.rows:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, found: Rows) -> None:
    import pyarrow
    import pyarrow.parquet

    checks = pyarrow.list_(pyarrow.struct([(name, pyarrow.string()) for name in Check.model_fields]))
    types = {name: checks if kind == CHECKS else pyarrow.type_for_alias(kind) for name, kind in found.kinds.items()}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found.rows, schema=pyarrow.schema(types.items())), path)


def _outcomes(judged: Sequence[Judgement]) -> dict[str, int]:
    """How many rows there are of each, the most frequent first."""
    return dict(Counter(item.verdict.outcome for item in judged).most_common())


def _card(run: Path, lock: Lock, judged: Sequence[Judgement], found: Rows) -> str:
    """README.md. The head's values are written as JSON, which is YAML too."""
    checks = [check for item in judged for check in item.verdict.checks if check.outcome != "pass"]
    ended = Counter(f"{check.validator}: {check.outcome}" for check in checks)
    head = _head(run, lock, judged, found)
    return CARD.format(
        head="\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()),
        title=text(head["pretty_name"]),
        teachers=", ".join(text(name) for name in sorted({item.teacher for item in judged})),
        task=code(lock.task),
        outcomes=_table("outcome", _outcomes(judged)),
        ended=_table("what ended it", dict(ended.most_common())) if ended else "Every candidate passed.",
        columns="\n".join(f"- {code(name)}: {MEANT.get(name) or _field(name, found)}" for name in found.kinds),
        run=code(run.name),
        command=code(lock.command),
        licences=", ".join(text(name) for name in _licences(judged)),
    )


def _table(header: str, counts: Mapping[str, int]) -> str:
    return table([header, "rows"], [[text(name), f"{count:,}"] for name, count in counts.items()])


def _field(name: str, found: Rows) -> str:
    return f"the input's field {code(name.removeprefix('input_'))}{', as JSON' if name in found.as_json else ''}"


def _licences(judged: Sequence[Judgement]) -> list[str]:
    return sorted({item.licence for item in judged})


def _head(run: Path, lock: Lock, judged: Sequence[Judgement], found: Rows) -> dict[str, Any]:
    """What the hub reads. `workbench` is ours: it lets keys pass that it does not know."""
    licence = ", ".join(_licences(judged))
    known = licence.lower() in HUB_LICENCES
    checks = [{"name": name, "dtype": "string"} for name in Check.model_fields]
    features = [
        {"name": name, "list": checks} if kind == CHECKS else {"name": name, "dtype": kind}
        for name, kind in found.kinds.items()
    ]
    return {
        "license": licence.lower() if known else "other",
        **({} if known else {"license_name": licence}),
        "pretty_name": f"{lock.task}: candidates with their verdicts",
        "task_categories": ["text-generation"],
        "size_categories": [next((name for limit, name in SIZES if len(judged) < limit), "n>1M")],
        "tags": ["distillation", "synthetic", lock.task],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {"features": features},
        "workbench": {"task": lock.task, "run": run.name, "rows": _outcomes(judged)},
    }
