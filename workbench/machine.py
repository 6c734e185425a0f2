"""The machine as this process may use it."""

import fcntl
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.5


def cores() -> int:
    """CPU cores that this process may run on: fewer than there are in a container, or pinned."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def cpu(file: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor is called; in a cloud many are called alike, so that its family and model are said too."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    if "model name" not in said:
        return platform.processor() or platform.machine()
    family = f" (family {said['cpu family']}, model {said['model']})" if {"cpu family", "model"} <= said.keys() else ""
    return said["model name"] + family


def multiplies_bf16(file: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU multiplies in bf16 (AMX, or AVX-512's own instruction). Torch then answers a teacher's batches several
    times as fast as llama.cpp, whose prebuilt library has no use for either; without it torch's bf16 is far slower than its
    fp32. Linux alone tells."""
    flags = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags


def end_with(run: int) -> None:
    """From now on this process ends when the process of that number is gone, its parent or one before that, by kill -9 too."""

    def watch() -> None:
        while _alive(run):
            time.sleep(POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(process: int) -> bool:
    """One that was killed and that nobody has asked after yet is not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, PermissionError):  # another user's has its number by now
        return False
    except FileNotFoundError:  # gone in between, or no Linux: then its number tells
        return not Path("/proc/self").exists()
    return state != "Z"


@contextmanager
def temporary_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, which is made; gone afterwards, unless it was moved. What was left there under this prefix by a
    process that was killed is removed: a lock beside each folder tells whether somebody is at work in it."""
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob(f"{prefix}*.lock"):
        _remove(lock)
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=".lock", dir=parent)
    fcntl.flock(handle, fcntl.LOCK_EX)
    lock = Path(name)
    folder = lock.with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(handle)


def _remove(lock: Path) -> None:
    """A folder that nobody holds any more, and its lock."""
    try:
        handle = os.open(lock, os.O_RDWR)
    except OSError:  # gone by now, or another user's
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
    finally:
        os.close(handle)
