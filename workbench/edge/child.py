"""Child processes of this package: native code runs in them, so that its crashes, its log and its memory stay outside.

`spawn` starts `python -m MODULE` so that it sees the same `workbench` as its parent. `settle` is called by the child,
first thing. `run` is for short verbs: it waits, and turns a failure into an `EdgeError` with the end of the log.

Not guaranteed: a child stopped by SIGSTOP, or hanging in uninterruptible I/O, cannot notice that its parent is gone.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import workbench
from workbench.errors import EdgeError
from workbench.machine import end_with

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def environment(*first_on_path: Path) -> dict[str, str]:
    """This process's environment, with `first_on_path` and then this `workbench` at the head of PYTHONPATH."""
    home = Path(workbench.__file__).resolve().parent.parent
    old = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([*map(str, first_on_path), str(home), *([old] if old else [])]),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def spawn(
    module: str, args: Sequence[str], *, log: IO[bytes], stdout: int | IO[bytes], env: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """`python -m module *args`, standard error to `log`, its standard input a pipe that closes when this process ends.

    The kernel's death signal is tied to the *thread* that forks (prctl(2)), so it is asked for only when the main
    thread starts the child; from any other thread the closing pipe and the watch on the parent's pid do the work.
    """
    on_main = threading.current_thread() is threading.main_thread()
    command = [sys.executable, "-m", module, *args]
    watch = {"WORKBENCH_PARENT": str(os.getpid()), "WORKBENCH_PDEATHSIG": "1" if on_main else "0"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=log,
        env=(env or environment()) | watch,
        start_new_session=True,  # the terminal's Ctrl-C is for the parent, which ends its children itself
    )


def settle() -> None:
    """In the child: ends it when its parent is gone, even by kill -9; makes it the first to go when memory runs out.

    Linux promises memory that it does not have: a context far too large is granted, and once it is touched the kernel
    kills something. That shall be this process, not the run. A no-op in a process that was not spawned from here.
    """
    parent = int(os.environ.get("WORKBENCH_PARENT", "0"))
    if not parent:
        return
    if sys.platform == "linux" and os.environ.get("WORKBENCH_PDEATHSIG") == "1":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):  # no /proc: not Linux, or a sandbox without it
        Path("/proc/self/oom_score_adj").write_text("1000")

    def watch_pipe() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch_pipe, daemon=True).start()
    end_with(parent)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, at most 4 KB."""
    if not log.is_file():
        return ""
    return "\n".join(log.read_bytes()[-4096:].decode(errors="replace").splitlines()[-lines:])


def ending(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"exit code {returncode}"
    name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else str(-returncode)
    return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def run(module: str, args: Sequence[str], *, log: Path, what: str, hint: str, env: dict[str, str] | None = None) -> str:
    """Runs a short verb to its end and gives its standard output. `EdgeError` with the log's tail if it fails."""
    with log.open("wb") as sink:
        child = spawn(module, args, log=sink, stdout=subprocess.PIPE, env=env)
        try:
            # Not communicate(): it would close the pipe that tells the child that we live.
            assert child.stdout is not None and child.stdin is not None
            said = child.stdout.read()
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
    if code:
        raise EdgeError(f"{what} failed ({ending(code)}); its log ends with:\n{tail(log)}", hint)
    return said.decode()
