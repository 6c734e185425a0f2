"""What the runtime really feeds the model for a chat, as token ids, to be held against the training rendering.

Asked of llama.cpp's own server, which renders with the template inside the GGUF and tokenizes as its chat endpoint does
(special tokens parsed, BOS added if the file says so). Nothing is rendered or tokenized in Python here.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.edge.runtime import LlamaServer
from workbench.errors import EdgeError
from workbench.types import Message

Chat = Sequence[Message | dict[str, str]]


def rendering_ids(
    where: str | Path, messages: Chat, *, add_generation_prompt: bool = True, tools: Sequence[dict[str, Any]] = ()
) -> list[int]:
    """The ids fed for a chat. `where` is the `base_url` of a running server, or a GGUF that is loaded for this. `tools` are
    sent along as an OpenAI client sends them."""
    if isinstance(where, Path):
        with LlamaServer(where) as server:
            return rendering_ids(server.base_url, messages, add_generation_prompt=add_generation_prompt, tools=tools)
    return tokenize(where, rendering(where, messages, add_generation_prompt=add_generation_prompt, tools=tools))


def rendering(
    where: str, messages: Chat, *, add_generation_prompt: bool = True, tools: Sequence[dict[str, Any]] = ()
) -> str:
    """The text of the prompt for `messages`, by the template inside the GGUF. `where` is a server's `base_url`."""
    chat = [m.model_dump() if isinstance(m, Message) else m for m in messages]
    body = {"messages": chat, "add_generation_prompt": add_generation_prompt} | (
        {"tools": list(tools)} if tools else {}
    )
    text: str = _ask(where, "/apply-template", body)["prompt"]
    return text


def tokenize(where: str | Path, text: str) -> list[int]:
    """llama.cpp's token ids of a text in which special tokens count as such. May raise `EdgeError`."""
    if isinstance(where, Path):
        with LlamaServer(where) as server:
            return tokenize(server.base_url, text)
    ids: list[int] = _ask(where, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
    return ids


def _ask(base_url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    url = base_url.rstrip("/").removesuffix("/v1") + path
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer: dict[str, Any] = json.load(reply)
    except urllib.error.HTTPError as error:
        detail = error.read()[:500].decode(errors="replace")
        raise EdgeError(f"{url} answered {error.code}: {detail}", "is this llama.cpp's server?") from error
    except OSError as error:
        raise EdgeError(f"{url} cannot be reached: {error}", "see LlamaServer.check()") from error
    return answer
