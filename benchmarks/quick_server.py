"""An OpenAI-compatible server that costs next to nothing: after `--latency` seconds it answers every chat with the call that
the last message asks for. For measuring clients.

    python benchmarks/quick_server.py [--latency 0.2]    # prints its base URL; GET /stats tells what it has seen
"""

import argparse
import asyncio
import json
import re
import time
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
SAID = re.compile(r"timer (\d+) minutes for ([\w ]+)")


class Stats:
    """Times are those of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.received = self.busy = self.busiest = 0
        self.first = self.last = 0.0
        self.distinct: set[bytes] = set()

    def told(self) -> dict[str, Any]:
        return {
            "received": self.received,
            "distinct": len(self.distinct),
            "busiest": self.busiest,
            "seconds": self.last - self.first,
        }


class Connection(asyncio.Protocol):
    def __init__(self, stats: Stats, latency_s: float) -> None:
        self.stats, self.latency_s = stats, latency_s
        self.data = b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while b"\r\n\r\n" in self.data:
            head, _, rest = self.data.partition(b"\r\n\r\n")
            found = LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(rest) < length:
                return
            body, self.data = rest[:length], rest[length:]
            if head.startswith(b"GET"):
                self._send(json.dumps(self.stats.told()).encode())
            else:
                self._asked(body)

    def _asked(self, body: bytes) -> None:
        stats, now, chat = self.stats, time.monotonic(), json.loads(body)
        if not chat["messages"]:  # curator asks so for the limits of a key
            return self._send(b"{}")
        stats.first = stats.first or now
        stats.received += 1
        stats.busy += 1
        stats.busiest = max(stats.busiest, stats.busy)
        stats.distinct.add(hash(body).to_bytes(8, "big", signed=True))
        answer = json.dumps(completion(chat)).encode()  # meanwhile: what it takes is no part of the latency
        asyncio.get_running_loop().call_at(now + self.latency_s, self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        self.stats.busy -= 1
        self.stats.last = time.monotonic()
        if not self.transport.is_closing():
            self._send(answer)

    def _send(self, body: bytes) -> None:
        self.transport.write(HEAD % len(body) + body)


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """The chat completion: one call with the minutes and the label that the last message names."""
    last = body["messages"][-1]["content"]
    found = SAID.findall(last if isinstance(last, str) else json.dumps(last))
    minutes, label = found[-1] if found else ("1", "nothing")
    text = json.dumps([{"name": "set_timer", "arguments": {"minutes": int(minutes), "label": label.strip()}}])
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body.get("model", ""),
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 20, "total_tokens": 420},
    }  # fmt: skip


async def serve(latency_s: float) -> None:
    stats = Stats()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(stats, latency_s), "127.0.0.1", 0, backlog=1024
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.2)
    asyncio.run(serve(parser.parse_args().latency))
