"""llama.cpp's server around one GGUF, for as long as a `with` block lasts.

    with LlamaServer(Path("model.gguf"), slots=4, ctx_per_slot=1024) as server:
        openai.OpenAI(base_url=server.base_url, api_key="none").chat.completions.create(model=server.alias, ...)

The server is a child process (`serve.py`): a crash of native code or the kernel's out-of-memory killer ends the child,
not the run, and the child ends when this process does, however it ends. `check()` tells a dead server from a slow one.
"""

import json
import queue
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from workbench.edge import child
from workbench.edge.gguf_file import check_gguf
from workbench.errors import EdgeError


class LlamaServer:
    """A context manager; not to be entered twice at the same time.

    `slots` requests run at once, each with its own context of `ctx_per_slot` tokens, prompt and answer together.
    `states` is a folder for the states of slots that the server is asked to save (`POST /slots/0?action=save`).
    `threads` None leaves the number to llama.cpp (the physical cores). `log` is where llama.cpp's log goes; without it,
    a temporary file that is gone after `close`. Entering raises `EdgeError` if the server does not get ready in time.
    """

    def __init__(
        self,
        model: Path,
        *,
        slots: int = 1,
        ctx_per_slot: int = 2048,
        threads: int | None = None,
        alias: str = "expert",
        log: Path | None = None,
        states: Path | None = None,
        start_timeout_s: float = 180.0,
    ) -> None:
        self.model = model
        self.slots = slots
        self.ctx_per_slot = ctx_per_slot
        self.threads = threads
        self.alias = alias
        self.start_timeout_s = start_timeout_s
        self._log = log
        self._states = states
        self._own_log: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._address = ""

    @property
    def base_url(self) -> str:
        """Of the OpenAI-compatible API, ending in `/v1`."""
        return f"{self.address}/v1"

    @property
    def address(self) -> str:
        """Of the server itself: `/health`, `/tokenize`, `/apply-template`, `/completion`."""
        if not self._address:
            raise EdgeError("this server is not running", "use it in a `with` block")
        return self._address

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EdgeError("this server is not running", "use it in a `with` block")
        return self._process.pid

    def log_tail(self, lines: int = 12) -> str:
        """The end of llama.cpp's log."""
        path = self._log or self._own_log
        return child.tail(path, lines) if path else ""

    def check(self) -> None:
        """`EdgeError` if the child has died, with the end of its log."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise EdgeError(
                f"the llama.cpp server of {self.model.name} died ({child.ending(code)}); its log ends with:\n"
                f"{self.log_tail()}",
                "with less memory than it needs, use fewer slots or a smaller ctx_per_slot",
            )

    def __enter__(self) -> Self:
        check_gguf(self.model)
        if self.slots < 1 or self.ctx_per_slot < 1:
            raise EdgeError("a server needs at least one slot and one token of context", "raise slots or ctx_per_slot")
        if self._process is not None:
            raise EdgeError("this server is running already", "make a second LlamaServer")
        args = ["--model", str(self.model), "--alias", self.alias, "--threads", str(self.threads or 0)]
        args += ["--slots", str(self.slots), "--ctx-per-slot", str(self.ctx_per_slot)]
        if self._states is not None:
            args += ["--states", str(self._states)]
        with self._open_log() as log:
            self._process = child.spawn("workbench.edge.serve", args, log=log, stdout=subprocess.PIPE)
        try:
            self._address = self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child: politely, then by SIGTERM, then by SIGKILL. Safe to call twice."""
        process, self._process, self._address = self._process, None, ""
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()  # the child watches this pipe
            for last_word in (None, process.terminate, process.kill):
                if last_word is not None:
                    last_word()
                try:
                    process.wait(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    continue
            if process.stdout is not None:
                process.stdout.close()
        if self._own_log is not None:
            self._own_log.unlink(missing_ok=True)
            self._own_log = None

    def _open_log(self) -> IO[bytes]:
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            return self._log.open("wb")
        with tempfile.NamedTemporaryFile(prefix="llama-server-", suffix=".log", delete=False) as file:
            self._own_log = Path(file.name)
        return self._own_log.open("wb")

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> str:
        said: queue.Queue[bytes] = queue.Queue()
        pipe = process.stdout
        assert pipe is not None
        # readline cannot time out; the thread ends with the child at the latest.
        threading.Thread(target=lambda: said.put(pipe.readline()), daemon=True).start()
        started = time.monotonic()
        try:
            line = said.get(timeout=self.start_timeout_s)
        except queue.Empty:
            raise EdgeError(
                f"the llama.cpp server of {self.model.name} was not ready after {time.monotonic() - started:.0f} s; "
                f"its log ends with:\n{self.log_tail()}",
                "raise start_timeout_s, or use a smaller model or context",
            ) from None
        if not line:
            code = process.wait()
            raise EdgeError(
                f"the llama.cpp server of {self.model} did not start ({child.ending(code)}); its log ends with:\n"
                f"{self.log_tail()}",
                "use fewer slots or a smaller ctx_per_slot if memory is short; else make the file again",
            )
        address: str = json.loads(line)["address"]
        return address
