"""The ledger as a reader sees it: all calls and failures of one moment, without their texts. It may be read while a run writes.

Nothing is made, mended or brought to a newer format here; SQLite itself may leave an empty `-wal` and a `-shm` beside the file.
Not guaranteed: what is read is not checked against its seals, as `Ledger.get` does.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from workbench import ledger_file
from workbench.errors import StoreError


class Call(NamedTuple):
    """One call that was paid for. `created` is UTC, ISO 8601; `run` is "" where no run asked."""

    teacher: str
    purpose: str
    run: str
    created: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float


class Failure(NamedTuple):
    """One failed attempt. `kind` is a `TeacherKind`."""

    teacher: str
    purpose: str
    run: str
    created: str
    kind: str
    message: str


class View(NamedTuple):
    """Both in the order in which they were written."""

    calls: list[Call]
    failures: list[Failure]


def read(path: Path) -> View:
    """The ledger at `path`, empty where there is none. Raises StoreError where it cannot be read, or is a newer format's."""
    try:
        with _shared(path):
            if not path.is_file():
                return View([], [])
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)) as db:
                return _read(db, path)
    except (sqlite3.Error, OSError) as error:
        damaged = isinstance(error, sqlite3.Error) and ledger_file.is_damage(error)
        hint = "the next run repairs it on opening" if damaged else "check the permissions of the file and its folder"
        raise StoreError(f"{path} cannot be read: {error}", hint) from error


def _read(db: sqlite3.Connection, path: Path) -> View:
    db.execute("BEGIN")  # both tables as of one moment
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > ledger_file.FORMAT:
        raise StoreError(
            f"{path} has format {found}, this workbench reads {ledger_file.FORMAT}", "update the workbench"
        )
    if not found:  # made, and not yet filled
        return View([], [])
    calls = db.execute(f"SELECT {', '.join(Call._fields)} FROM calls ORDER BY rowid")
    failures = db.execute(f"SELECT {', '.join(Failure._fields)} FROM failures ORDER BY id")
    return View([Call(*row) for row in calls], [Failure(*row) for row in failures])


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    """The lock that a `Ledger` holds, so that a repair is waited for and none begins meanwhile."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY)
    except FileNotFoundError:  # nobody wrote here yet, or the file was copied from elsewhere
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)
