"""`python -I -S sql_child.py`: executes SQL that nobody has read. A script, not a module: it needs the standard library alone.

    in   one line of JSON: script, seconds, memory_mb, rows; then a query a line, as JSON
    out  a line each: {"rows": [...]} or {"error": "..."}; the first one, for the script, holds no rows

Time: a handler looks at this process's own clock, the time that it had a core, every few thousand steps of SQLite's virtual
machine; a busy machine makes no query slow. Memory: SQLite's own heap limit, and
the process's address space. Writes: the authorizer allows reading alone, and no file may grow. Network and files: SQLite has
no words for them but ATTACH and extensions, which are refused; and this process can open nothing any more.
"""

import json
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 5000  # of SQLite's virtual machine between two looks at the clock
SPARE = 32 * 2**20  # bytes of address space for Python itself
VALUE_BYTES = 2**20
REPLY_BYTES = 2**22
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}


def authorized(action: int, first: str | None, second: str | None, database: str | None, inside: str | None) -> int:
    """sqlite3's authorizer: what a query may do."""
    reads = action in READING or (action == sqlite3.SQLITE_FUNCTION and second != "load_extension")
    return sqlite3.SQLITE_OK if reads else sqlite3.SQLITE_DENY


def opened(script: str, memory: int) -> sqlite3.Connection:
    """The database in memory, as the script makes it, and from then on to be read alone."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(script)
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA query_only = ON")
    held = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    db.execute(f"PRAGMA hard_heap_limit = {memory + held * 5 // 4}")
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES)
    db.set_authorizer(authorized)
    return db


def fence(memory: int) -> None:
    """Limits on this process, those of the kernel. They come last: what is open stays open."""
    try:
        import resource
    except ImportError:  # Windows: SQLite's own limits stand alone
        return
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails, instead of ending us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory + SPARE, size + memory + SPARE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def answered(db: sqlite3.Connection, query: str, seconds: float, rows: int) -> dict[str, Any]:
    """One query's rows, or why there are none."""
    until = time.process_time() + seconds
    db.set_progress_handler(lambda: time.process_time() > until, STEPS)
    try:
        cursor = db.execute(query)
        if cursor.description is None:
            return {"error": "it is no query: it asks for nothing"}
        found = cursor.fetchmany(rows + 1)
    except sqlite3.OperationalError as error:
        late = str(error) == "interrupted"
        return {"error": f"it takes more than {seconds:g} seconds" if late else str(error)}
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "it takes too much memory"}
    if len(found) > rows:
        return {"error": f"it gives more than {rows} rows"}
    return {"rows": [[value.hex() if isinstance(value, bytes) else value for value in row] for row in found]}


def tell(said: dict[str, Any]) -> None:
    line = json.dumps(said)
    print(line if len(line) <= REPLY_BYTES else json.dumps({"error": "it gives too much to be read"}), flush=True)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    memory = int(order["memory_mb"] * 2**20)
    try:
        db = opened(order["script"], memory)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return tell({"error": str(error)})
    fence(memory)
    tell({"rows": []})
    for line in sys.stdin:
        tell(answered(db, json.loads(line), order["seconds"], order["rows"]))


if __name__ == "__main__":
    main()
