"""A small real OpenAI-compatible server for tests: the same request gets the same reply, and every request is counted.

    with TeacherServer(log, latency_s=0.05, script=["429", "ok"]) as server: ...   # in this process
    python tests/servers.py LOG [--latency 0.05] [--script 401,ok]                 # prints its base URL, serves till killed

What it says: new values, inputs for an answer, and labels, as the workbench's prompts ask for them, in a toy language
(`set timer minutes 10 then open app maps`) that it can read back. One written input in ten leaves its last word out.

What it counts: a line of JSON an event in LOG, on the disk before the server goes on, so that clients may be killed.
`received`: the whole request was read. `answered`: the whole reply was written, and the client had not hung up before.

How it misbehaves: `script` holds one word a request, `ok` once it is used up (see `MISDEEDS`); 429 asks to wait 1 s.

Not guaranteed: what was answered to a client that dies in the same moment may still not have been read by it.
"""

import argparse
import hashlib
import json
import os
import random
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

STATUS = {"400": 400, "401": 401, "403": 403, "404": 404, "422": 422, "429": 429, "500": 500, "503": 503}
MISDEEDS = (
    *STATUS, "hang", "half", "cut", "reset", "no-choices", "null-choices", "odd-choices", "empty", "null", "html", "text",
    "list", "no-content", "no-finish", "no-usage", "odd-usage", "parts", "refusal", "length", "drip", "slow",
)  # fmt: skip
HANG_S = 30.0
DRIP_S = 0.02  # between two bytes
FIRST = "amber Birgit cobalt Dimitri ember Farida granite Hiroshi indigo Jarek kestrel Lwazi maple Nadia olive Pavel"
SECOND = "anchor bridge candle dune engine falcon garden harbour island jungle kettle lantern meadow needle oasis"
PREFIXES = ("", "", "please ", "ok now ", "hey ", "could you ", "well then ")


class Seen(NamedTuple):
    """One line of the log. `body` is the sha256 of the bytes, `question` the digest of what the ledger knows as well."""

    event: str
    body: str
    question: str


def question_id(messages: Sequence[Any], temperature: float, max_tokens: int) -> str:
    """What a request asks, as it can be told from its body and from a row of the ledger."""
    plain = [[message["role"], message["content"]] for message in messages]
    return hashlib.sha256(json.dumps([plain, float(temperature), max_tokens]).encode()).hexdigest()[:16]


def read_log(path: Path) -> list[Seen]:
    if not path.exists():
        return []
    return [Seen(**json.loads(line)) for line in path.read_text().splitlines()]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news; what else goes wrong is told."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_of: "TeacherServer"

    def log_message(self, format: str, *args: Any) -> None:
        """The log is the file."""

    def do_POST(self) -> None:
        owner = self.server_of
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body, question, deed = owner.begin(raw, {name.title(): value for name, value in self.headers.items()})
        answered = False
        try:
            if owner.latency_s:
                time.sleep(owner.latency_s)
            if not self._gone():
                self._reply(body, deed)
                self.wfile.flush()
                answered = True
        except OSError:
            self.close_connection = True
        finally:
            owner.end(raw, question, answered)

    def _gone(self) -> bool:
        ready, _, _ = select.select([self.connection], [], [], 0)
        return bool(ready) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _reply(self, body: dict[str, Any], deed: str) -> None:
        if deed in STATUS:
            echo = f"{deed} for Authorization: {self.headers.get('Authorization')}"  # some servers do say the key
            extra = {"Retry-After": "1"} if deed == "429" else {}
            return self._send(json.dumps({"error": {"message": echo, "type": "scripted"}}), STATUS[deed], extra)
        if deed == "hang":
            self.server_of.ended.wait(HANG_S)
            raise ConnectionAbortedError
        if deed == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            raise ConnectionResetError
        full = json.dumps(completion(body, deed, self.server_of.text, tells=self.server_of.tells))
        if deed == "half":
            return self._send(full[: len(full) // 2])
        if deed == "cut":  # the header promises more than what comes
            self._send(full[: len(full) // 2], extra={"Content-Length": str(len(full))})
            raise ConnectionAbortedError
        if deed == "html":
            return self._send("<html>login</html>", extra={"Content-Type": "text/html"})
        if deed == "text":
            return self._send("hello", extra={"Content-Type": "text/plain"})
        if deed == "list":
            return self._send("[1, 2]")
        if deed == "drip":  # byte by byte, in vain
            return self._send(full + " " * int(HANG_S / DRIP_S), pause_s=DRIP_S)
        if deed == "slow":  # byte by byte, all of it in a second
            return self._send(full, pause_s=1 / len(full))
        return self._send(full)

    def _send(self, text: str, status: int = 200, extra: dict[str, str] | None = None, pause_s: float = 0) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json", "Content-Length": str(len(data)), **(extra or {})
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        if not pause_s:
            self.wfile.write(data)
        for at in range(len(data) if pause_s else 0):
            self.wfile.write(data[at : at + 1])
            if self.server_of.ended.wait(pause_s):
                raise ConnectionAbortedError


class TeacherServer:
    """Serves while it is entered. `script` and `latency_s` may be changed at any time; `requests` holds the bodies. `tells`:
    log-probabilities, where they are asked for; each character is a token."""

    handler = Handler

    def __init__(
        self, log: Path, *, latency_s: float = 0.0, script: Iterable[str] = (), text: str = "", tells: bool = False
    ) -> None:
        self.log, self.latency_s, self.text, self.tells = log, latency_s, text, tells
        self.script = list(script)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busiest = 0
        self._busy = 0
        self._mutex = threading.Lock()
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.ended = threading.Event()
        owner = self

        class Mine(self.handler):  # type: ignore[name-defined,misc]
            server_of = owner

        self._http = _Http(("127.0.0.1", 0), Mine)
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        os.close(self._log)

    def serve(self) -> None:
        """In the foreground, till the process is killed."""
        self._http.serve_forever()

    @property
    def count(self) -> int:
        return len(self.requests)

    def seen(self) -> list[Seen]:
        return read_log(self.log)

    def begin(self, raw: bytes, headers: dict[str, str]) -> tuple[dict[str, Any], str, str]:
        """Counts a request; gives its body, its question and what to do with it."""
        body = json.loads(raw)
        question = question_id(body["messages"], body["temperature"], body["max_tokens"])
        with self._mutex:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            self.requests.append(body)
            self.headers.append(headers)
            deed = self.script.pop(0) if self.script else "ok"
            self._note("received", raw, question)
        return body, question, deed

    def end(self, raw: bytes, question: str, answered: bool) -> None:
        with self._mutex:
            self._busy -= 1
            if answered and not self.ended.is_set():
                self._note("answered", raw, question)

    def _note(self, event: str, raw: bytes, question: str) -> None:
        line = Seen(event, hashlib.sha256(raw).hexdigest(), question)._asdict()
        os.write(self._log, json.dumps(line).encode() + b"\n")
        os.fsync(self._log)


def completion(body: dict[str, Any], deed: str, fixed: str, *, tells: bool = False) -> dict[str, Any]:
    messages = body["messages"]
    text = fixed or answer(messages, body["temperature"])
    message: dict[str, Any] = {"role": "assistant", "content": text}
    message |= {"empty": {"content": ""}, "null": {"content": None}, "parts": {"content": [{"type": "text"}]},
                "refusal": {"content": None, "refusal": "I would rather not."}}.get(deed, {})  # fmt: skip
    read, wrote = sum(len(m["content"].split()) for m in messages), len(text.split())
    made: dict[str, Any] = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "length" if deed == "length" else "stop", "message": message}],
        "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote},
    }  # fmt: skip
    if tells and "top_logprobs" in body:
        likeliest = [("~", -1.2), ("|", -1.6)][: body["top_logprobs"] - 1]
        told = [
            {"token": sign, "logprob": -0.7, "bytes": [*sign.encode()], "top_logprobs": [
                {"token": other, "logprob": logprob, "bytes": None} for other, logprob in ((sign, -0.7), *likeliest)
            ]} for sign in text
        ]  # fmt: skip
        made["choices"][0]["logprobs"] = {"content": told}
    holder, key = {"no-usage": (made, "usage"), "no-content": (message, "content"),
                   "no-finish": (made["choices"][0], "finish_reason")}.get(deed, ({"": 0}, ""))  # fmt: skip
    del holder[key]
    return made | {"no-choices": {"choices": []}, "null-choices": {"choices": None}, "odd-choices": {"choices": {"0": 1}},
                   "odd-usage": {"usage": {"prompt_tokens": None}}}.get(deed, {})  # fmt: skip


def answer(messages: Sequence[Any], temperature: float) -> str:
    """What the toy teacher says: the same for the same question."""
    rng = random.Random(question_id(messages, temperature, 0))
    system, last = messages[0]["content"], messages[-1]["content"]
    if re.search(r"Write \d+ other ones\.$", last):
        return "\n".join(str(_other("", rng)) for _ in range(10))
    if "Here it goes backwards" in system:
        said = re.search(r"^answer: (.*)$", last, re.MULTILINE)
        assert said is not None, last
        return _spoken(json.loads(said[1]), rng)
    return json.dumps(_understood(system, last), separators=(",", ":"))


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, str):
        return f"{rng.choice(FIRST.split())} {rng.choice(SECOND.split())}"
    return value if isinstance(value, bool) else rng.randrange(2, 90)


def _spoken(calls: Any, rng: random.Random) -> str:
    if not calls:
        return f"what a day for {_other('', rng)} and {_other('', rng)}"
    parts = [
        " ".join([call["name"].replace("_", " "), *(f"{key} {value}" for key, value in call["arguments"].items())])
        for call in calls
    ]
    text = rng.choice(PREFIXES) + " then ".join(parts)
    return text.rsplit(" ", 1)[0] if rng.random() < 0.1 else text


def _understood(system: str, text: str) -> list[dict[str, Any]]:
    """The calls that a text in the toy language asks for, by the functions that the system message describes."""
    functions = {
        name.replace("_", " "): (name, re.findall(r"(\w+)\??: ([^,]+)", fields))
        for name, fields in re.findall(r"^(\w+)\((.*?)\)", system, re.MULTILINE)
    }
    calls = []
    for part in text.split(" then "):
        spoken = next((spoken for spoken in functions if f"{spoken} " in part), None)
        if spoken is None:
            continue
        name, fields = functions[spoken]
        rest = part.split(f"{spoken} ", 1)[1]
        keys = "|".join(re.escape(key) for key, _ in fields)
        found = dict(re.findall(rf"\b({keys}) (.+?)(?= (?:{keys}) |$)", rest))
        whole = {key for key, kind in fields if re.fullmatch(r"[\d]*-[\d]*|whole number", kind)}
        arguments = {key: int(v) if key in whole and v.isdigit() else v for key, v in found.items()}
        calls.append({"name": name, "arguments": arguments})
    return calls


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--script", default="")
    options = parser.parse_args()
    server = TeacherServer(options.log, latency_s=options.latency, script=filter(None, options.script.split(",")))
    print(server.base_url, flush=True)
    server.serve()


if __name__ == "__main__":
    sys.exit(main())
