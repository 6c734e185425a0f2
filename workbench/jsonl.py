"""Reading a task's JSONL files: rows that do not fit are told together, each with its number."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from workbench.errors import DataError

T = TypeVar("T")
TOLD = 5  # rows of a file that do not fit
FORM = "each line is one JSON object"


def read(path: Path, made: Callable[[dict[str, Any]], T], hint: str) -> Iterator[tuple[int, T]]:
    """Each line's place in the file in bytes, and what is made of its object. At the end raises DataError where rows do not
    fit, with the first of them; at once where the file cannot be read at all."""
    faults: list[str] = []
    hints: dict[str, None] = {}
    count = 0
    for number, place, line in _lines(path):
        try:
            found = made(_object(line))
        except DataError as error:
            fault, mend = str(error), error.hint
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # the author's `read` may stumble too
            fault, mend = short(error), hint
        else:
            yield place, found
            continue
        count += 1
        if count <= TOLD:
            faults.append(f"row {number}: {fault}")
            hints[mend] = None
    if count == 1:
        raise DataError(f"{path}, {faults[0]}", next(iter(hints)))
    if faults:
        more = [f"and {count - TOLD} more"] if count > TOLD else []
        raise DataError("\n  ".join([f"{path}: {count} rows do not fit", *faults, *more]), "; ".join(hints))


def _lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """The number of each line that holds something, its place in bytes, and its text."""
    try:
        handle = path.open("rb")
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing",
            "a task needs seeds.jsonl, dev.jsonl and test.jsonl, and corpus.jsonl for the source `corpus`",
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "it is to be a file of rows, a line each") from None
    with handle:
        place, first = 0, True
        for number, line in enumerate(handle, 1):  # of bytes, a file is split at line feeds alone
            start, place = place, place + len(line)
            try:
                text = line.decode("utf-8-sig").strip()  # Windows begins a file with a mark of the byte order
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is not UTF-8: row {number}: {error}", "save the file as UTF-8") from None
            if first and text.startswith("["):
                raise DataError(f"{path}: this is a JSON array", "write one object a line, without [ ] around them")
            if text:
                first = False
                yield number, start, text


def _object(line: str) -> dict[str, Any]:
    """Raises DataError."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at character {error.colno}", FORM) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", FORM) from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object", FORM)
    return row


def short(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    if isinstance(error, ValidationError):  # of an input: an answer's are told by its output
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in ('input', *first['loc']))}: {first['msg']}"
    return str(error)
