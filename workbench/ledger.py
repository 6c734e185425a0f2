"""Every teacher call, append-only, in one SQLite file: what was paid for once is never asked again.

A reply is durable before anybody uses it (`put` returns after the commit is on the disk). The key covers everything
that shapes the reply and nothing else, so a killed run, another run and another task find it again. Safe for several
threads and several processes. A damaged file is set aside on opening and what can be read of it is carried over;
`Ledger.notice` says so.

    calls      one row a key, the first reply wins, never changed
    failures   one row a failed attempt; told, never reused

API keys are not part of a `Request`; what looks like one in an error message is struck out (`redact`).
Not guaranteed: a `Ledger` does not survive a fork (open it in the child); network disks without working locks.
"""

import errno
import fcntl
import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from workbench import ledger_file
from workbench.digest import digest
from workbench.errors import StoreError
from workbench.types import Reply, Request, Usage

log = logging.getLogger(__name__)

REPAIR_WAIT_S = 5.0
HINTS = {
    sqlite3.SQLITE_FULL: "free some space, then run the same command: every call in the ledger is kept",
    sqlite3.SQLITE_IOERR: "look at the disk (is it full?), then run the same command: every call in the ledger is kept",
    sqlite3.SQLITE_BUSY: "another process writes without end: stop it, then run the same command",
    sqlite3.SQLITE_READONLY: "check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of the file and its folder",
}
SECRET = re.compile(
    r"(?i:(?:authorization[\"']?\s*[:=]\s*[\"']?)?(?:bearer|basic)\s+|authorization[\"']?\s*[:=]\s*[\"']?"
    r"|api[-_ ]?key[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]+"
    r"|\b(?:sk|pk|gsk|xai)[-_][\w*.-]{6,}|\bhf_[A-Za-z0-9]{10,}|\bAIza[\w-]{20,}"
)


def redact(text: str) -> str:
    """The text with everything that looks like an API key struck out."""
    return SECRET.sub("[redacted]", text)


class Paid(NamedTuple):
    """One call to be written."""

    key: str
    model: str
    request: Request
    reply: Reply
    teacher: str = ""


class Found(NamedTuple):
    """A reply that was paid for, and the seconds by the clock (since 1970) in which its call was under way."""

    reply: Reply
    seconds: range


class Ledger:
    """The ledger at `path`, made if need be. A context manager; `close` it otherwise. `run` is noted in each row.
    `sound`: another process has just looked at it for damage.

    Opening raises StoreError when the file is a newer format's, is damaged while another process has it open, or cannot
    be written. `notice` is "" or what was repaired, as a sentence for the user.
    """

    def __init__(self, path: Path, *, run: str = "", sound: bool = False) -> None:
        self.path, self.run, self.notice = path, run, ""
        self._mutex = threading.Lock()
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Shared by all who have the ledger open; a repair takes it alone: nobody writes to a file set aside.
            self._lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with self._told():
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                if not sound and ledger_file.damage(path):
                    self.notice = self._repair()
                self._db = ledger_file.connect(path)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Twice does no harm."""
        with self._mutex:
            if self._lock >= 0:
                self._db.close()
                os.close(self._lock)
                self._lock = -1

    @staticmethod
    def key(model: str, request: Request) -> str:
        """The call's name, 64 hex digits. Frozen by tests/test_ledger.py: a change pays for every call again.

        The schema goes in as its text: the order of its properties shapes the reply, and sorted keys would hide it.
        """
        schema = None if request.json_schema is None else json.dumps(request.json_schema, ensure_ascii=True)
        told = {"top_logprobs": request.top_logprobs} if request.top_logprobs else {}
        return digest(
            {
                "v": 1,
                "model": model,
                "messages": [[m.role, writable(m.content)] for m in request.messages],
                "temperature": float(request.temperature),
                "top_p": float(request.top_p),
                "max_tokens": request.max_tokens,
                "k": request.k,
                "json_schema": schema,
                **told,
            }
        )

    def get(self, key: str) -> Reply | None:
        """The reply that was paid for, or None."""
        found = self.found(key)
        return found.reply if found else None

    def found(self, key: str) -> Found | None:
        with self._using() as db:
            row = db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if ledger_file.seal(row) != row["seal"]:
            raise self._suspect(f"the call {key[:8]} does not read as it was written")
        ended = datetime.fromisoformat(row["created"]).timestamp()
        with self._told():
            reply = _reply(row)
        return Found(reply, range(int(ended - row["seconds"]), int(ended) + 1))

    def put(self, key: str, model: str, request: Request, reply: Reply, *, teacher: str = "") -> Reply:
        """Writes a call, on the disk when this returns. Returns the reply that stands: the first one under that key.

        `teacher` is who answered ("openai", "local", …), the model when it is not given.
        """
        return self.put_all([Paid(key, model, request, reply, teacher)])[0]

    def put_all(self, calls: Sequence[Paid]) -> list[Reply]:
        """The same for many at once, in one commit: all of them are on the disk when this returns, or none."""
        rows = [self._row(call) for call in calls]
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                written = [ledger_file.insert(db, "calls", row) for row in rows]
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        return [
            _reply(row) if new else self.get(row["key"]) or _reply(row) for row, new in zip(rows, written, strict=True)
        ]

    def _row(self, call: Paid) -> dict[str, Any]:
        row: dict[str, Any] = {
            "key": call.key,
            "teacher": call.teacher or call.model,
            "model": call.model,
            "purpose": call.request.purpose,
            "request": _as_json(call.request),
            "text": writable(call.reply.text),
            "finish": call.reply.finish,
            **call.reply.usage.model_dump(),
            "seconds": float(call.reply.seconds),
            "logprob": call.reply.logprob,
            "top_logprobs": ledger_file.packed(call.reply.top_logprobs),
            "created": _now(),
            "run": self.run,
        }
        row["seal"] = ledger_file.seal(row)
        return row

    def fail(self, key: str, model: str, request: Request, kind: str, message: str, *, teacher: str = "") -> None:
        """Notes a failed attempt, durable when this returns. `kind` is a `TeacherKind`; the message is redacted."""
        row = {
            "key": key,
            "teacher": teacher or model,
            "model": model,
            "purpose": request.purpose,
            "request": _as_json(request),
            "kind": kind,
            "message": redact(writable(message)),
            "created": _now(),
            "run": self.run,
        }
        with self._using() as db:
            ledger_file.insert(db, "failures", row)

    def all_keys(self, model: str) -> list[str]:
        """Of one teacher's calls, in the order in which they were written."""
        with self._using() as db:
            return [row["key"] for row in db.execute("SELECT key FROM calls WHERE model = ? ORDER BY rowid", (model,))]

    def rows(self, table: str, after: int, most: int) -> list[dict[str, Any]]:
        """Rows of `calls` or `failures` as they are stored, each with its number, `_number`: `most` behind number `after`."""
        query = f"SELECT rowid AS _number, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT ?"
        with self._using() as db:
            return [dict(row) for row in db.execute(query, (after, most))]

    def adopt(self, table: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Rows of another ledger, on the disk when this returns; those that are here already stay as they are. Gives the number
        of the last one there."""
        with self._using() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    ledger_file.adopt(db, table, {name: row[name] for name in row if name not in {"_number", "id"}})
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        return int(rows[-1]["_number"])

    def count(self) -> int:
        """How many calls are paid for, over all runs."""
        with self._using() as db:
            return int(db.execute("SELECT count(*) FROM calls").fetchone()[0])

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, self._told():
            yield self._db

    def _repair(self) -> str:
        """Rebuilds the file once nobody else has it open."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # of two who found it damaged, neither may wait for the other
        until = time.monotonic() + REPAIR_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise StoreError(
                        f"{self.path} is damaged, and another process has it open",
                        "stop the other run, then run the same command: it is repaired on opening",
                    ) from error
                time.sleep(0.1)
        why = ledger_file.damage(self.path)  # another may have repaired it meanwhile
        notice = ledger_file.rebuild(self.path, why) if why else ""
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return notice

    def _suspect(self, why: str) -> StoreError:
        ledger_file.suspect_file(self.path).touch()
        return StoreError(f"{self.path} is damaged: {why}", "run the same command: it is repaired on opening")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The disk's and SQLite's errors as ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if ledger_file.is_damage(error):
                raise self._suspect(str(error)) from error
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in HINTS:
                raise StoreError(f"{self.path}: {error}", HINTS[code]) from error
            raise
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            hint = HINTS[sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_CANTOPEN]
            raise StoreError(f"{self.path}: {error}", hint) from error


def _reply(row: Mapping[str, Any] | sqlite3.Row) -> Reply:
    usage = Usage(**{name: row[name] for name in Usage.model_fields})
    return Reply(
        text=row["text"],
        finish=row["finish"],
        usage=usage,
        seconds=row["seconds"],
        logprob=row["logprob"],
        top_logprobs=ledger_file.unpacked(row["top_logprobs"]),
    )


def _as_json(request: Request) -> str:
    try:
        return request.model_dump_json()
    except ValueError:  # half a surrogate pair
        return writable(json.dumps(request.model_dump(), ensure_ascii=False))


def writable(text: str) -> str:
    """The text as UTF-8 can hold it: a teacher cut off inside an emoji leaves half a surrogate pair."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
