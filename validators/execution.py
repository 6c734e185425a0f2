"""Does the query run, and does it give what the known target gives? Executed in a sandbox (`workbench.sandbox`)."""

import inspect
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.declaration import Task
from workbench.sandbox import QueryError, SqlSandbox, sql
from workbench.types import Check, Judged

DIGITS = 6  # of a number that is compared, after the point
KEPT = 8  # sandboxes at once, a database each


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


@lru_cache(maxsize=KEPT)
def _sandbox(script: Path, seconds: float, memory_mb: float, process: int) -> SqlSandbox:
    """One a process: a pipe is not shared with those who were forked."""
    return SqlSandbox(script.read_text(encoding="utf-8"), seconds=seconds, memory_mb=memory_mb)


def _same(rows: Sequence[tuple[Any, ...]], wanted: Sequence[tuple[Any, ...]], *, ordered: bool) -> bool:
    ours, theirs = [_rounded(row) for row in rows], [_rounded(row) for row in wanted]
    return ours == theirs if ordered else Counter(ours) == Counter(theirs)


def _rounded(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(round(value, DIGITS) if isinstance(value, float) else value for value in row)


def _shown(rows: Sequence[tuple[Any, ...]]) -> str:
    if len(rows) == 1:
        return str(rows[0])
    return f"{len(rows)} rows" + (f", the first {rows[0]}" if rows else "")
