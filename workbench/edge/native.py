"""A llama.cpp server of your own in place of the prebuilt one: WORKBENCH_LLAMA_SERVER names its binary.

The prebuilt wheel is made for AVX2, so that it runs on any PC of the last ten years; llama.cpp built on a machine with
AVX-512 reads prompts faster there. `docs/native.md` has the commands.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

VARIABLE = "WORKBENCH_LLAMA_SERVER"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
POLL_S = 0.1


def binary() -> str:
    """The path of the user's own server; empty where none is named. Raises FileNotFoundError where it is not there."""
    named = os.environ.get(VARIABLE, "")
    if not named:
        return ""
    found = shutil.which(Path(named).expanduser())
    if found is None:
        raise FileNotFoundError(f"{VARIABLE} names {named}, which is no program")
    return found


def runtime_version() -> str:
    """Which llama.cpp answers: part of the keys of what is measured through it."""
    own = os.environ.get(VARIABLE, "")
    return f"own {Path(own).stat().st_size}" if own and Path(own).is_file() else version("xllamacpp")


def start(program: str, args: Namespace) -> tuple["subprocess.Popen[bytes]", str]:
    """Start it with the arguments of serve.py; gives the process and its address. Raises RuntimeError if it ends.

    On Linux it dies with its parent, however that ends.
    """
    port = args.port or _free_port()
    command = [program, "--model", args.model, "--alias", args.alias, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--parallel", str(args.slots), "--ctx-size", str(args.slots * args.ctx_per_slot)]
    command += ["--batch-size", str(args.batch), "--no-kv-unified", "--jinja", "--reasoning-format", "none"]
    command += ["--cache-ram", "0", "--ctx-checkpoints", "0", "--no-webui"]
    if args.threads > 0:
        command += ["--threads", str(args.threads), "--threads-batch", str(args.threads)]
    # safe here: the only threads of this process are the watchers of child.py, which hold no lock
    if args.states:
        command += ["--slot-save-path", f"{args.states}/"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, preexec_fn=_die_with_parent)  # noqa: PLW1509
    address = f"http://127.0.0.1:{port}"
    while not _healthy(port):
        if process.poll() is not None:
            raise RuntimeError(f"{program} ended with code {process.returncode}")
        time.sleep(POLL_S)
    return process, address


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            probe.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in probe.recv(64)
    except OSError:  # not listening yet
        return False
