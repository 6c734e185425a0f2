"""SQL that a model wrote, executed in a process of its own (`sql_child.py`) on a database that a script makes."""

import contextlib
import json
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("sql_child.py")
START_S = 20.0
PATIENCE = 5.0  # times the seconds that a query may take, before its process is killed: it has not had its core


class QueryError(Exception):
    """Why a query gave no rows, as a person reads it: SQLite's own words, or the limit that it met."""


class SqlSandbox:
    """A query at a time, from any thread; the process begins with the first one, and again after one that had to be killed.

    script: SQL that makes the tables and fills them; it is ours, and has `START_S` seconds.
    seconds, memory_mb, rows: what a query may take and give, at most.
    """

    def __init__(self, script: str, *, seconds: float = 2.0, memory_mb: float = 64.0, rows: int = 1000) -> None:
        self._order = {"script": script, "seconds": seconds, "memory_mb": memory_mb, "rows": rows}
        self._seconds = seconds
        self._one = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, query: str) -> list[tuple[Any, ...]]:
        """The rows; blobs as hexadecimal text. Raises QueryError; ValueError where the script itself fails."""
        with self._one:
            if self._process is not None and self._process.poll() is not None:  # it died while nobody asked
                self._end()
            process = self._process or self._begin()
            try:
                reply = self._asked(process, json.dumps(query), PATIENCE * self._seconds + 1)
            except BaseException:  # what it answers is for nobody
                self._end()
                raise
        if "error" in reply:
            raise QueryError(reply["error"])
        return [tuple(row) for row in reply["rows"]]

    def close(self) -> None:
        with self._one:
            self._end()

    def _begin(self) -> "subprocess.Popen[bytes]":
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(CHILD)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={}, start_new_session=True,  # no API key is in there
        )  # fmt: skip
        made = self._asked(self._process, json.dumps(self._order), START_S)
        if "error" in made:
            self._end()
            raise ValueError(f"the script that makes the database fails: {made['error']}")
        return self._process

    def _asked(self, process: "subprocess.Popen[bytes]", said: str, patience_s: float) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: no line comes, and that is told
            process.stdin.write(said.encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], patience_s)
        line = process.stdout.readline() if ready else b""
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
        self._end()
        return {"error": "its process died: too much memory" if ready else f"it takes more than {patience_s:g} seconds"}

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
