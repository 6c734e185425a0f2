"""`workbench new`: what it writes passes the check as it stands, and it overwrites nothing."""

import ast
import re
from pathlib import Path

import pytest

from workbench import registry
from workbench.errors import StoreError, TaskError
from workbench.scaffold import write_task
from workbench.trial import try_task


def test_what_is_written_passes_the_check(tmp_path: Path) -> None:
    path = write_task(tmp_path / "deep" / "er", "lights")
    task = registry.load(str(path))
    trial = try_task(task)
    assert trial.ok, trial.problems
    assert trial.rows == {"seed": 8, "dev": 6, "test": 6}
    assert (task.name, task.version, path.name) == ("lights", 1, "lights.py")
    assert sorted(file.name for file in (path.parent / "data_lights").iterdir()) == [
        "dev.jsonl", "seeds.jsonl", "test.jsonl"
    ]  # fmt: skip


def test_the_file_is_short_and_imports_the_public_surface_only(tmp_path: Path) -> None:
    text = write_task(tmp_path, "lights").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 40
    assert max(map(len, text.splitlines())) <= 120
    modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert modules == {"pydantic", "workbench", "workbench.validators"}
    assert not any(isinstance(node, ast.Import) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("my-task", "my_task"), ("2 lights", "task_2_lights"), ("class", "task_class"), ("", "my_task"),
        ("Light Switch!", "light_switch"), ("../up", "up"), ("lights.py", "lights"), ("_x", "x"),
        ("phone_actions", "my_phone_actions"), ("json", "my_json"), ("torch", "my_torch"), ("Task", "my_task"),
        ("grounded", "my_grounded"), ("print", "my_print"),
    ],
)  # fmt: skip
def test_a_name_that_will_not_do(tmp_path: Path, name: str, suggestion: str) -> None:
    with pytest.raises(TaskError) as caught:
        write_task(tmp_path, name)
    assert caught.value.hint == f"workbench new {suggestion}"
    assert list(tmp_path.iterdir()) == []
    near = re.fullmatch(r"workbench new (\w+)", caught.value.hint)
    assert near is not None
    assert write_task(tmp_path, near[1]).is_file()  # what it suggests will do


@pytest.mark.parametrize("there", ["lights.py", "data_lights"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(TaskError, match="is there already"):
        write_task(tmp_path, "lights")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_task(tmp_path / "file", "lights")
