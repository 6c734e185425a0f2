"""`workbench split FILE`: one file of labelled rows -> seeds, dev and test, before anything is generated.

Where a row goes is said by its group (`"group"` in the row: a customer, a conversation), else by its input, and by nothing
else: rows that come later change no other's place, and a group is never torn apart. Of rows with one input, letter case apart,
the first is kept: in two files they would be learned from and scored on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench import jsonl
from workbench.digest import digest
from workbench.errors import DataError, StoreError
from workbench.outputs.base import fold
from workbench.types import SPLITS, Split


def split(file: Path, folder: Path, dev: float, test: float) -> tuple[Counter[Split], int]:
    """Writes seeds.jsonl, dev.jsonl and test.jsonl into `folder`; gives the rows of each, and how many were left out. `dev` and
    `test` are shares, expected ones: a group is whole. Raises DataError, and StoreError where a file is there already."""
    if dev <= 0 or test <= 0 or dev + test >= 1:
        raise DataError(
            f"--dev {dev:g} and --test {test:g} leave nothing to one of the three", "as in --dev 0.2 --test 0.3"
        )
    if not file.is_file():
        raise DataError(f"there is no file {file}", 'name a file of rows, each with "input" and "target"')
    read = [
        row for _, row in jsonl.read(file, _checked, 'a row has "input" and "target", and "group" where it has one')
    ]
    first: dict[str, dict[str, Any]] = {}
    for row in read:
        first.setdefault(digest(fold(row["input"])), row)
    rows = list(first.values())
    placed: dict[Split, list[dict[str, Any]]] = {each: [] for each in SPLITS}
    for row in rows:
        placed[_place(row, dev, test)].append(row)
    if empty := [each for each in SPLITS if not placed[each]]:
        raise DataError(
            f"{file}: {len(rows)} rows give no {' and no '.join(empty)} row", "more rows or groups, or other shares"
        )
    folder.mkdir(parents=True, exist_ok=True)
    names: Mapping[Split, str] = {"seed": "seeds.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}
    if there := [name for name in names.values() if (folder / name).exists()]:
        raise StoreError(f"{folder / there[0]} is there already", "name another folder with --to, or move it away")
    for each, name in names.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in placed[each])
        (folder / name).write_text("".join(lines), encoding="utf-8")
    return Counter({each: len(found) for each, found in placed.items()}), len(read) - len(rows)


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row.get("group") or "", str):
        raise TypeError("'group' is to be text")
    return {**row, "input": row["input"], "target": row["target"]}


def _place(row: Mapping[str, Any], dev: float, test: float) -> Split:
    key = f"group {row['group']}" if row.get("group") else digest(fold(row["input"]))
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "test" if share < test else "dev" if share < test + dev else "seed"
