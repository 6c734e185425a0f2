"""Shared: the real student, fetched and verified once into the cache, and unpacked once for the session; a server, a ledger."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import TeacherServer

from workbench import models
from workbench.ledger import Ledger

LONGEST_FIRST = ("test_end_to_end.py", "test_edge.py", "test_students.py", "test_kill.py")  # two workers end together


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF of the default student. A machine that cannot get it fails here, with the reason."""
    return models.fetch("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_hf(smollm2: Path) -> Path:
    """The same, as a Hugging Face folder, where a run would have it."""
    from workbench.students.load import prepare_base

    return prepare_base(smollm2, models.cache_dir() / "students")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TeacherServer]:
    """A teacher that says `[]` to everything."""
    with TeacherServer(tmp_path / "log.jsonl", text="[]") as running:
        yield running


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", run="r") as opened:
        yield opened
