"""A few-shot block is read in one slot and copied to the others: on llama.cpp's own server, with the real small model."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from small import question

from workbench.errors import EdgeError
from workbench.teachers import embedded
from workbench.teachers.embedded import EmbeddedTeacher
from workbench.teachers.slots import Slots
from workbench.types import Message, Reply, Request

WORDS = ("big", "fast", "rich", "near", "soft", "young")


def block(task: str, turns: int = 6) -> tuple[Message, ...]:
    """A few-shot block of some hundred tokens."""
    shots = [
        message
        for turn in range(turns)
        for message in (
            Message(role="user", content=f"{task} number {turn}: what is the opposite of hot in this language?"),
            Message(role="assistant", content=f"It is cold, as in example {turn} of {turns}."),
        )
    ]
    return (Message(role="system", content=f"{task}. Answer with one word."), *shots)


def asked(task: str) -> list[Request]:
    return [
        Request(messages=(*block(task), Message(role="user", content=f"Opposite of {word}?")), max_tokens=4)
        for word in WORDS
    ]


def test_each_block_is_read_once_by_all_slots_together(smollm2: Path) -> None:
    teacher = EmbeddedTeacher(smollm2, model="small", licence="Apache-2.0", slots=3, threads=2, timeout_s=120)

    async def ask() -> list[Reply]:
        try:
            requests = [request for pair in zip(asked("English"), asked("German"), strict=True) for request in pair]
            return list(await asyncio.gather(*(teacher.complete(request) for request in requests)))
        finally:
            await teacher.aclose()

    replies = asyncio.run(ask())
    read = sorted(reply.usage.prompt_tokens - reply.usage.cached_tokens for reply in replies)
    assert len(replies) == 12 and all(reply.text for reply in replies)
    assert sum(tokens > 100 for tokens in read) == 2, f"two blocks, each read whole by one request: {read}"
    assert read[9] < 30, "the others read their own question alone"


def test_a_server_that_cannot_keep_a_state_is_told_and_used(smollm2: Path, tmp_path: Path) -> None:
    """Without a folder for states llama.cpp refuses to save one."""
    import httpx

    from workbench.edge.runtime import LlamaServer

    async def ask(address: str) -> None:
        async with httpx.AsyncClient(base_url=address) as client:
            slots = Slots(client, 1)
            async with slots.taken(block("English")):
                pass

    with (
        LlamaServer(smollm2, slots=1, ctx_per_slot=512, threads=2) as server,
        pytest.warns(UserWarning, match=r"cannot save a slot's state.*TMPDIR"),
    ):
        asyncio.run(ask(server.address))


def test_a_server_that_cannot_start_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def broken(path: Path, **more: object) -> None:
        tries.append(path)
        raise EdgeError("it does not start")

    monkeypatch.setattr(embedded, "LlamaServer", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)

    async def both() -> list[object]:
        teacher = EmbeddedTeacher(tmp_path / "x.gguf", model="x", licence="", slots=2, threads=1, timeout_s=1)
        found = await asyncio.gather(*(teacher.complete(question(text)) for text in "ab"), return_exceptions=True)
        await teacher.aclose()
        return list(found)

    assert [str(error) for error in asyncio.run(both())] == ["it does not start"] * 2
    assert len(tries) == 1
    assert list(tmp_path.iterdir()) == [], "and it leaves nothing behind"
