"""The ledger's SQLite file: its format, opening it, finding out that it is damaged, and saving what can be read of it.

`ledger.py` is the way in; this is what it stands on. Functions raise sqlite3's and the system's own errors.
"""

import json
import logging
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.digest import digest
from workbench.errors import StoreError
from workbench.types import TokenLogprobs

log = logging.getLogger(__name__)

FORMAT = 3  # PRAGMA user_version
CAME = {2: "logprob REAL", 3: "top_logprobs BLOB"}  # columns of `calls` that an older format has not
BUSY_S = 30.0  # how long a writer waits for another before it gives up
PAGE_BYTES = 4096
MAGIC = b"SQLite format 3\0"
GAP_ROWS = 10_000  # a damaged stretch longer than this ends the search when the table's end is not known
SEALED = ("key", "request", "text", "finish", "prompt_tokens", "completion_tokens", "cached_tokens", "seconds")
SCHEMA = (
    """CREATE TABLE calls (
  key TEXT PRIMARY KEY, teacher TEXT NOT NULL, model TEXT NOT NULL, purpose TEXT NOT NULL, request TEXT NOT NULL,
  text TEXT NOT NULL, finish TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
  cached_tokens INTEGER NOT NULL, seconds REAL NOT NULL, created TEXT NOT NULL, run TEXT NOT NULL, seal TEXT NOT NULL,
  logprob REAL, top_logprobs BLOB
)""",
    """CREATE TABLE failures (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, teacher TEXT NOT NULL, model TEXT NOT NULL, purpose TEXT NOT NULL,
  request TEXT NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL, created TEXT NOT NULL, run TEXT NOT NULL
)""",
)


def connect(path: Path) -> sqlite3.Connection:
    """Opens the file, made if need be. Raises StoreError when a newer workbench wrote it."""
    db = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
    try:
        db.row_factory = sqlite3.Row
        # FULL: with NORMAL a power cut may lose the last commits, and those were paid for. It costs one fsync a call,
        # milliseconds beside a teacher's answer.
        db.execute("PRAGMA synchronous = FULL")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            _to_wal(db)
            db.execute("BEGIN IMMEDIATE")  # of two processes that make the file, the second finds it made
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in SCHEMA:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
            db.execute("COMMIT")
        _upgrade(db)
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found != FORMAT:
            raise StoreError(f"{path} has format {found}, this workbench writes {FORMAT}", "update the workbench")
    except BaseException:
        db.close()
        raise
    return db


def _upgrade(db: sqlite3.Connection) -> None:
    """A file of an older format gets the columns that came later, empty for its calls."""
    if not 1 <= db.execute("PRAGMA user_version").fetchone()[0] < FORMAT:
        return
    db.execute("BEGIN IMMEDIATE")  # of two processes, the second finds it done
    there = {row["name"] for row in db.execute("PRAGMA table_info(calls)")}
    for column in CAME.values():
        if column.partition(" ")[0] not in there:
            db.execute(f"ALTER TABLE calls ADD COLUMN {column}")
    db.execute(f"PRAGMA user_version = {FORMAT}")
    db.execute("COMMIT")


def _to_wal(db: sqlite3.Connection) -> None:
    """SQLite does not wait for its busy timeout here, so we do."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.05)


def insert(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
    """Appends a row and says so; a key that is there stays as it is."""
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    done = db.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
    return done.rowcount > 0


def adopt(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Appends a row of another ledger, unless one like it is there: failures have no key that would tell."""
    same = " AND ".join(f"{name} IS ?" for name in row)
    known = table == "failures" and db.execute(f"SELECT 1 FROM failures WHERE {same}", tuple(row.values())).fetchone()
    if not known:
        insert(db, table, row)


def seal(row: Mapping[str, Any] | sqlite3.Row) -> str:
    """16 hex digits over what was paid for: a damaged page can give well-formed nonsense."""
    return digest([row[name] for name in SEALED])[:16]


def packed(told: Sequence[TokenLogprobs]) -> bytes | None:
    """As it is stored; some 8 bytes a token kept."""
    if not told:
        return None
    return zlib.compress(json.dumps([[each.token, each.top] for each in told], separators=(",", ":")).encode())


def unpacked(stored: bytes | None) -> tuple[TokenLogprobs, ...]:
    """Raises sqlite3.DatabaseError where that is damaged."""
    if stored is None:
        return ()
    try:
        return tuple(TokenLogprobs(token=token, top=top) for token, top in json.loads(zlib.decompress(stored)))
    except (zlib.error, ValueError) as error:
        raise sqlite3.DatabaseError("Could not decode the log-probabilities of a call") from error


def is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "Could not decode" in str(error)


def suspect_file(path: Path) -> Path:
    """Its existence asks the next one who opens the ledger to rebuild it."""
    return path.with_name(f"{path.name}.suspect")


def damage(path: Path) -> str:
    """What is wrong with the file, "" when nothing was found. Milliseconds; all pages are only read after a crash."""
    if not path.exists() or path.stat().st_size == 0:
        return ""
    if suspect_file(path).exists():
        return "an earlier run could not read it"
    with path.open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            return "it does not begin like an SQLite file"
    wal = path.with_name(f"{path.name}-wal")
    crashed = wal.exists() and wal.stat().st_size > 0
    db = sqlite3.connect(path, timeout=BUSY_S)
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return ""  # killed between making the file and its tables
        for table in ("calls", "failures"):
            db.execute(f"SELECT * FROM {table} ORDER BY rowid LIMIT 1").fetchall()
            db.execute(f"SELECT * FROM {table} ORDER BY rowid DESC LIMIT 1").fetchall()
        if crashed:
            told = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
            return "" if told == "ok" else told
        return ""
    except sqlite3.DatabaseError as error:
        if is_damage(error) or "no such table" in str(error):
            return str(error)
        raise
    finally:
        db.close()


def rebuild(path: Path, why: str) -> str:
    """Sets the file aside as `<name>.torn-<time>` and carries every sound row into a new one. Returns what was done.

    Nobody else may have the file open. Killed half-way, it is done again on the next opening.
    """
    torn = path.with_name(f"{path.name}.torn-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    scratch, fresh = path.with_name(f"{path.name}.scratch"), path.with_name(f"{path.name}.new")
    wal = path.with_name(f"{path.name}-wal")
    for old in (scratch, fresh):
        _remove(old)
    for copy in (torn, scratch):  # the one is kept as it was, the other is read, which changes it
        shutil.copy2(path, copy)
        if wal.exists():
            shutil.copy2(wal, copy.with_name(f"{copy.name}-wal"))
    new = connect(fresh)
    try:
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the tables are named on page 1 from now on
        first_page = fresh.read_bytes()[:PAGE_BYTES]
        carried, lost = _carry(scratch, new, first_page)
    finally:
        new.close()
    _remove(path)
    fresh.replace(path)
    _remove(scratch)
    suspect_file(path).unlink(missing_ok=True)
    told = f"{carried} calls were carried over" + (f", {lost} were found damaged and left out" if lost else "")
    notice = f"the ledger was damaged ({why}): it was set aside as {torn.name}, and {told}"
    return notice


def _remove(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _carry(scratch: Path, new: sqlite3.Connection, first_page: bytes) -> tuple[int, int]:
    """Copies sound rows out of a damaged file. Returns (calls carried, calls found damaged)."""
    carried = lost = 0
    _mend(scratch, None)
    try:
        damaged = _tolerant(scratch)
    except sqlite3.DatabaseError:  # page 1 is gone: ours is always the same but for its counters
        _mend(scratch, first_page)
        try:
            damaged = _tolerant(scratch)
        except sqlite3.DatabaseError as error:
            log.warning("nothing can be read of the damaged ledger: %s", error)
            return 0, 0
    new.execute("BEGIN")
    for row in _rows(damaged, "calls"):
        values = {name: row[name] for name in row.keys() if name != "_id"}  # noqa: SIM118 - a Row iterates its values
        try:
            sound = seal(values) == values["seal"] and bool(json.loads(values["request"]))
            unpacked(values.get("top_logprobs"))
        except (ValueError, TypeError, sqlite3.DatabaseError):
            sound = False
        if sound:
            insert(new, "calls", values)
            carried += 1
        else:
            lost += 1
    for row in _rows(damaged, "failures"):
        insert(new, "failures", {name: row[name] for name in row.keys() if name not in {"_id", "id"}})  # noqa: SIM118
    new.execute("COMMIT")
    damaged.close()
    return carried, lost


def _mend(path: Path, first_page: bytes | None) -> None:
    """Makes SQLite believe that the file has the pages it has; with `first_page`, that it begins as ours do."""
    with path.open("rb+") as handle:
        if first_page is not None:
            handle.write(first_page)
        pages = path.stat().st_size // PAGE_BYTES
        handle.seek(28)  # https://www.sqlite.org/fileformat.html, 1.3.7: the size in pages
        handle.write(pages.to_bytes(4, "big"))


def _tolerant(path: Path) -> sqlite3.Connection:
    """Opens a damaged file; raises sqlite3.DatabaseError when not even its tables can be named."""
    db = sqlite3.connect(path, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA writable_schema = ON")  # lets SQLite go on where it would give up
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        if not {"calls", "failures"} <= tables:
            raise sqlite3.DatabaseError("it has no calls")
    except sqlite3.DatabaseError:
        db.close()
        raise
    return db


def _rows(db: sqlite3.Connection, table: str) -> Iterator[sqlite3.Row]:
    """Every row that can be read, in order, leaping over those that cannot."""
    try:
        end = db.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
    except sqlite3.DatabaseError:
        end = 0
    last = good = 0
    while last <= max(end, good + GAP_ROWS):
        try:
            query = f"SELECT rowid AS _id, * FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
            for row in db.execute(query, (last,)):
                last = good = row["_id"]
                yield row
            return
        except sqlite3.DatabaseError as error:
            log.debug("%s row %d: %s", table, last + 1, error)
            last += 1
