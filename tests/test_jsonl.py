"""Files of rows: what does not fit is told together, by row, in words of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
from small import ROWS, opening, write_task

from workbench import registry
from workbench.errors import DataError

GOOD = json.dumps({"input": {"text": "open maps"}, "target": [opening("maps")]})
CALL = '{"input": {"text": "x"}, "target": [{"name": "%s", "arguments": {}}]}'


def refused(folder: Path, content: str | bytes) -> tuple[str, str]:
    """What is said of dev.jsonl, without its path, and the hint."""
    task = registry.load(str(write_task(folder)))
    file = folder / "data" / "dev.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        task.examples("dev")
    assert str(caught.value).startswith(str(file))
    return str(caught.value).removeprefix(str(file)), caught.value.hint


@pytest.mark.parametrize(
    ("line", "says", "mend"),
    [
        (f"{GOOD} {GOOD}", ", row 2: not JSON: Extra data at character ", "one JSON object"),
        ('{"input": "open maps", "target": []}', ", row 2: input: Input should be a valid dictionary", "schema"),
        ('{"input": {"text": ""}, "target": []}', ", row 2: input.text: String should have at least", "schema"),
        (CALL % "OpenApp", ", row 2: call 0: no function is called 'OpenApp', did you mean 'open_app'?", "schema"),
        ("7", ", row 2: not a JSON object", "one JSON object"),
    ],
)
def test_a_row_that_does_not_fit(tmp_path: Path, line: str, says: str, mend: str) -> None:
    error, hint = refused(tmp_path, f"{GOOD}\n{line}\n")
    assert error.startswith(says)
    assert "line 1" not in error
    assert mend in hint


def test_rows_that_do_not_fit_are_told_together(tmp_path: Path) -> None:
    error, hint = refused(tmp_path, "\n".join([GOOD, "{", GOOD, CALL % "fly", "", '{"target": []}']))
    first, *rows = error.splitlines()
    assert first == ": 3 rows do not fit"
    assert [row.split(": ")[0] for row in rows] == ["  row 2", "  row 4", "  row 6"]
    assert "not JSON" in rows[0] and "'fly'" in rows[1] and "'input' is missing" in rows[2]
    assert hint == "each line is one JSON object; mend the row, or the schema in the task file"


def test_of_many_the_first_five_are_told(tmp_path: Path) -> None:
    error, _ = refused(tmp_path, "{\n" * 8)
    assert error.startswith(": 8 rows do not fit")
    assert error.count("row ") == 5
    assert error.endswith("  and 3 more")


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_told_as_such(tmp_path: Path, indent: int | None) -> None:
    rows: list[Any] = [{"input": {"text": text}, "target": target} for text, target in ROWS["dev"]]
    error, hint = refused(tmp_path, json.dumps(rows, indent=indent))
    assert error == ": this is a JSON array"
    assert "one object a line" in hint


def test_a_mark_of_the_byte_order_is_no_fault(tmp_path: Path) -> None:
    task = registry.load(str(write_task(tmp_path)))
    inputs = [json.dumps({"input": {"text": text}}) for text in ("open maps", "ring Anna")]
    for name, lines in (("dev.jsonl", [GOOD, GOOD]), ("corpus.jsonl", inputs)):
        (tmp_path / "data" / name).write_text("\n".join(lines), encoding="utf-8-sig")
    assert [row.input["text"] for row in task.examples("dev")] == ["open maps"]
    assert [row.input["text"] for row in task.corpus()] == ["open maps", "ring Anna"]
