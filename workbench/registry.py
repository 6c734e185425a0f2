"""Finds tasks: by path, in the `workbench.tasks` package, in the entry-point group `workbench.tasks`.

Listing reads the syntax tree only, so that one broken file hides no other and nothing is run to be listed.
"""

import ast
import difflib
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from workbench.declaration import Task
from workbench.errors import TaskError, WorkbenchError

GROUP = "workbench.tasks"
IN_FILE = "::"  # between a file and one of its tasks, as pytest writes it
log = logging.getLogger(__name__)


class Found(NamedTuple):
    """Where a task lies, known without importing it; `module` is its file's name to Python, where it is of a package."""

    name: str
    title: str
    file: Path
    module: str = ""


def builtin_folder() -> Path:
    spec = importlib.util.find_spec("workbench.tasks")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError("the package workbench.tasks is not installed", "reinstall the workbench")
    return Path(next(iter(spec.submodule_search_locations)))


def available() -> list[Found]:
    """All tasks that can be named, the built-in ones first."""
    found = [item for file in sorted(builtin_folder().glob("*.py")) for item in in_file(file, f"{GROUP}.{file.stem}")]
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            spec = importlib.util.find_spec(point.module)
        except (Exception, SystemExit):  # noqa: BLE001 - another package's code: whatever it raises must not hide the other tasks
            spec = None
        if spec is None or spec.origin is None:
            log.warning("entry point %r names %s, which is not there: reinstall its package", point.name, point.module)
            continue
        found += [item for item in in_file(Path(spec.origin), point.module) if item.name == point.attr]
    return found


def in_file(file: Path, module: str = "") -> Iterator[Found]:
    """The tasks a file declares, read from its syntax tree. A file that cannot be read or parsed declares none."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(_is_task(item) for item in node.decorator_list):
            title = (ast.get_docstring(node) or "").split("\n")[0]
            yield Found(node.name, title, file, module)


def _is_task(node: ast.expr) -> bool:
    target = node.func if isinstance(node, ast.Call) else node
    return (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")) == "task"


def load(name: str) -> Task:
    """A task by name or by path to its file, of several in it `FILE.py::NAME`. Raises TaskError with the nearest names, or the
    file and line at fault."""
    path, _, wanted = name.partition(IN_FILE)
    if wanted or path.endswith(".py") or "/" in path:
        return made(_in_path(path, wanted))
    known = {item.name: item for item in available()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        raise TaskError(
            f"no task is called {name!r}",
            f"did you mean {' or '.join(near)}? `workbench list` shows all" if near else "`workbench list` shows all",
        )
    return made(known[name])


def only(path: str, names: Iterable[str]) -> str:
    """The one task of a file. Raises TaskError where it declares several."""
    one, *more = names
    if more:
        each = " or ".join(f"{path}{IN_FILE}{name}" for name in (one, *more))
        raise TaskError(f"{path} declares {1 + len(more)} tasks", f"write {each}")
    return one


def _in_path(path: str, wanted: str) -> Found:
    file = Path(path).resolve()
    if not file.is_file():
        raise TaskError(f"there is no task file {path}", "workbench new NAME writes one")
    found = {item.name: item for item in in_file(file)}
    if not found:
        _import(file, "")  # a syntax error is told with its line
        raise TaskError(f"{path} declares no task", "decorate a function with @task() that returns a Task")
    if wanted and wanted not in found:
        raise TaskError(f"{path} declares no task {wanted!r}", f"it declares {', '.join(found)}")
    return found[wanted or only(path, found)]


def made(found: Found) -> Task:
    """The task itself. Raises TaskError with the file and line at fault."""
    module = _import(found.file, found.module)
    factory = getattr(module, found.name)
    try:
        task = factory()
    except (Exception, SystemExit) as error:
        raise _at_fault(error, found.file) from error
    if not isinstance(task, Task):
        raise TaskError(f"{found.file}: {found.name}() returned {type(task).__name__}", "return a workbench.Task")
    version = factory.__workbench_task__
    return replace(task, name=found.name, title=found.title, version=version, file=found.file, module=found.module)


def where(task: Task) -> Found:
    """What another process needs to make it anew."""
    return Found(task.name, task.title, task.file, task.module)


def _import(file: Path, module: str) -> object:
    if file.suffix != ".py":
        raise TaskError(f"{file} cannot be imported", "a task file ends in .py")
    try:
        return importlib.import_module(module) if module else _alone(file)
    except (Exception, SystemExit) as error:
        raise _at_fault(error, file) from error


class _Source(importlib.machinery.SourceFileLoader):
    """Reads the file itself: bytecode counts as valid by second and size, and a file edited within both would run as it was."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _alone(file: Path) -> object:
    """A file that is of no package."""
    name = f"workbench_task_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    assert spec is not None and spec.loader is not None, "it ends in .py"
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[name]
        raise
    return made


def _at_fault(error: BaseException, file: Path) -> TaskError:
    return TaskError(_where(error, file), _mend(error, file))


def _mend(error: BaseException, file: Path) -> str:
    if isinstance(error, WorkbenchError) and error.hint:
        return error.hint
    name = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name and ((file.parent / name).is_dir() or (file.parent / f"{name}.py").is_file()):
        return f"a task file that is of no package cannot import its neighbours: put what it needs of {name} into it"
    return "mend the task file, then `workbench check`"


def _where(error: BaseException, file: Path) -> str:
    """`file, line N: what happened`, the deepest line that lies in the task file itself."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    told = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
    return f"{file}, line {lines[-1] if lines else '?'}: {told}"
