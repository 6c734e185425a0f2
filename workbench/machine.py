"""The machine as this process may use it."""

import os
import threading
import time

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
