"""Does the query, or the code, run, and give what the known target gives? Executed in a sandbox (`workbench.sandbox`)."""

import inspect
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import distribution
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from workbench.declaration import Task
from workbench.sandbox import CodeError, PythonSandbox, QueryError, SqlSandbox, python, sql
from workbench.types import Check, Judged

DIGITS = 6  # of a number that is compared, after the point
KEPT = 8  # sandboxes at once, a database or an interpreter each
SHOWN = 80  # characters of what code gives, in a reason


@dataclass(frozen=True)
class Executes:
    """The SQL in `field` runs on the database that `script` makes; where a target is known, both give the same rows.

    The order of the rows counts where the target's query orders them (as in Spider's test suites, Zhong et al. 2020).
    """

    field: str
    script: Path
    seconds: float
    memory_mb: float
    name: str = "executes"
    heavy: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.script, sql.CHILD)

    def judge(self, judged: Judged, task: Task) -> Check:
        sandbox = _sandbox(self.script, self.seconds, self.memory_mb, os.getpid())
        target = judged.example.target
        try:
            rows = sandbox.run(judged.value[self.field])
        except QueryError as error:
            return Check(validator=self.name, outcome="fail", reason=f"the query fails: {error}")
        if target is None:
            return Check(validator=self.name, outcome="pass")
        wanted = sandbox.run(target[self.field])  # a target that fails is the task's fault, and raised
        if _same(rows, wanted, ordered="order by" in target[self.field].casefold()):
            return Check(validator=self.name, outcome="pass")
        return Check(
            validator=self.name, outcome="fail", reason=f"it gives {_shown(rows)}, the target's query {_shown(wanted)}"
        )


def executes(field: str, script: str | Path, *, seconds: float = 2.0, memory_mb: float = 64.0) -> Executes:
    """`script`: a file of SQL that makes the tables and fills them, found from the file that calls this. Raises
    FileNotFoundError."""
    path = (Path(inspect.stack()[1].filename).parent / script).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} holds the database's script, and is not there")
    return Executes(field, path, seconds, memory_mb)


@dataclass(frozen=True)
class Runs:
    """The Python in `field` defines `function`, which gives something for each of `arguments`; where a target is known, both
    give the same (numbers to `DIGITS` digits)."""

    field: str
    function: str
    arguments: tuple[tuple[Any, ...], ...]
    seconds: float
    memory_mb: float
    name: str = "runs"
    heavy: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """The sandbox, and what tells which Monty is in it."""
        told = next(file for file in distribution("pydantic-monty-runtime").files or () if file.name == "METADATA")
        return (Path(python.__file__), Path(str(told.locate())))

    def judge(self, judged: Judged, task: Task) -> Check:
        sandbox = _interpreter(self.seconds, self.memory_mb, os.getpid())
        target = judged.example.target
        try:
            given = sandbox.call(judged.value[self.field], self.function, self.arguments)
        except CodeError as error:
            return Check(validator=self.name, outcome="fail", reason=f"the code fails: {error}")
        if target is None:
            return Check(validator=self.name, outcome="pass")
        wanted = sandbox.call(target[self.field], self.function, self.arguments)  # one that fails is the task's fault
        theirs = [_to_digits(value) for value in wanted]
        try:
            differs = next((at for at, value in enumerate(given) if _to_digits(value) != theirs[at]), None)
            reason = "" if differs is None else self._told(differs, given, wanted)
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number with too many digits to show, a list in a list in a list
            reason = f"what it gives cannot be compared: {error}"
        return Check(validator=self.name, outcome="fail" if reason else "pass", reason=reason)

    def _told(self, at: int, given: Sequence[Any], wanted: Sequence[Any]) -> str:
        called = f"{self.function}({', '.join(map(repr, self.arguments[at]))})"
        return f"{called} gives {repr(given[at])[:SHOWN]}, the target's {repr(wanted[at])[:SHOWN]}"


def runs(
    field: str, function: str, arguments: Sequence[Sequence[Any]], *, seconds: float = 2.0, memory_mb: float = 64.0
) -> Runs:
    """`arguments`: a list for each call of `function`, of values that JSON has. Raises ValueError where there are none, and
    ImportError without `distillation-workbench[code]`."""
    if not arguments:
        raise ValueError("runs(arguments=[]): name at least one list of arguments, as in [[1, 2], [3, 4]]")
    if find_spec("pydantic_monty") is None:
        raise ImportError("runs() executes Python in Monty: pip install 'distillation-workbench[code]'")
    return Runs(field, function, tuple(map(tuple, arguments)), seconds, memory_mb)


@lru_cache(maxsize=KEPT)
def _interpreter(seconds: float, memory_mb: float, process: int) -> PythonSandbox:
    return PythonSandbox(seconds=seconds, memory_mb=memory_mb)


def _to_digits(value: Any) -> Any:
    """With the numbers in it rounded, however deep; not-a-number is like itself."""
    if isinstance(value, float):
        return round(value, DIGITS) if isfinite(value) else (float, repr(value))
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return kind(map(_to_digits, value))
    if isinstance(value, dict):
        return {key: _to_digits(each) for key, each in value.items()}
    return value


@lru_cache(maxsize=KEPT)
def _sandbox(script: Path, seconds: float, memory_mb: float, process: int) -> SqlSandbox:
    """One a process: a pipe is not shared with those who were forked."""
    return SqlSandbox(script.read_text(encoding="utf-8"), seconds=seconds, memory_mb=memory_mb)


def _same(rows: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]], *, ordered: bool) -> bool:
    ours, theirs = [_to_digits(row) for row in rows], [_to_digits(row) for row in wanted]
    return ours == theirs if ordered else Counter(ours) == Counter(theirs)


def _shown(rows: Sequence[tuple[Any, ...]]) -> str:
    if len(rows) == 1:
        return str(rows[0])
    return f"{len(rows)} rows" + (f", the first {rows[0]}" if rows else "")
