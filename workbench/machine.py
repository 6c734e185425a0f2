"""The machine as this process may use it."""

import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

POLL_S = 0.5


def cores() -> int:
    """CPU cores that this process may run on: fewer than there are in a container, or pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def end_with(parent: int) -> None:
    """From now on this process ends when its parent, the process of that number, is gone, by kill -9 too."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def temporary_folder(prefix: str, parent: Path) -> Path:
    """A new folder in `parent`, which is made; what processes that are gone have left there under this prefix is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{prefix}*"):
        owner = re.match(r"(\d+)-", left.name.removeprefix(prefix))
        if owner and not _alive(int(owner[1])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
