"""The machine as this process may use it."""

import os


def cores() -> int:
    """CPU cores that this process may run on: fewer than there are in a container, or pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows
