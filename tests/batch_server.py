"""A local server that behaves like OpenAI's Batch API, in front of the toy teacher: files, batches, a list of them.

A batch is worked off when it is created and shown as `in_progress` for `polls` looks. A `script` word goes to each line of a
batch: `ok`, a status such as `500`, or `lost` for a line that no file holds afterwards.
"""

import itertools
import json
from email.parser import BytesParser
from pathlib import Path
from typing import Any

from servers import STATUS, Handler, TeacherServer, completion


class BatchHandler(Handler):
    server_of: "BatchServer"

    def do_POST(self) -> None:
        path = self.path.removeprefix("/v1/")
        if path not in ("files", "batches"):
            self.server_of.direct += 1
            return super().do_POST()
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        told = self._upload(raw) if path == "files" else self.server_of.create(json.loads(raw))
        if path == "batches" and self.server_of.silent:
            self.server_of.silent = False
            return self._send("{}", 502)
        self._send(json.dumps(told))

    def do_GET(self) -> None:
        owner, path = self.server_of, self.path.removeprefix("/v1/").partition("?")[0]
        if path == "batches":
            return self._send(json.dumps({"object": "list", "data": list(owner.batches.values()), "has_more": False}))
        if owner.faults and (fault := owner.faults.pop(0)):
            return self._send("{}", fault)
        kind, name, *_ = path.split("/")
        if name not in owner.files and name not in owner.batches:
            return self._send("{}", 404)
        self._send(owner.files[name] if kind == "files" else json.dumps(owner.look(name)))

    def _upload(self, raw: bytes) -> dict[str, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts: Any = BytesParser().parsebytes(head + raw).get_payload()
        (payload,) = (part.get_payload(decode=True) for part in parts if part.get_filename())
        return self.server_of.keep(payload.decode())


class BatchServer(TeacherServer):
    handler = BatchHandler

    def __init__(self, log: Path, *, polls: int = 1, **more: Any) -> None:
        super().__init__(log, **more)
        self.polls = polls
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.direct = 0
        self.numbers = itertools.count()  # several upload at once
        self.ends = "completed"
        self.quoted = ""  # what a refusal says besides
        self.faults: list[int] = []  # a status each for the next looks and downloads; 0: none
        self.silent = False  # the next batch is taken, and its maker told that the server failed

    def keep(self, text: str) -> dict[str, Any]:
        name = f"file-{next(self.numbers)}"
        self.files[name] = text
        return {"id": name, "object": "file", "bytes": len(text), "created_at": 1, "filename": "f", "purpose": "batch"}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["endpoint"] == "/v1/chat/completions" and body["completion_window"] == "24h"
        good, bad = [], []
        for line in self.files[body["input_file_id"]].splitlines():
            asked = json.loads(line)
            assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
            raw = json.dumps(asked["body"]).encode()
            _, question, deed = self.begin(raw, {})
            self.end(raw, question, answered=deed == "ok")
            if deed == "lost":
                continue
            answer = (
                {"error": {"message": f"{deed}{self.quoted}"}}
                if deed in STATUS
                else completion(asked["body"], deed, self.text)
            )
            told = {"status_code": STATUS.get(deed, 200), "request_id": "r", "body": answer}
            (bad if deed in STATUS else good).append(json.dumps({"custom_id": asked["custom_id"], "response": told}))
        name = f"batch-{next(self.numbers)}"
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
            "completion_window": "24h", "status": "in_progress", "created_at": 1, "metadata": body.get("metadata"),
            "output_file_id": self.keep("\n".join(good))["id"] if good else None,
            "error_file_id": self.keep("\n".join(bad))["id"] if bad else None,
        }  # fmt: skip
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        self.looks[name] = self.looks.get(name, 0) + 1
        if self.looks[name] > self.polls:
            self.batches[name]["status"] = self.ends
        return self.batches[name]
