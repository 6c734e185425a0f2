"""Shared: the real student, fetched and verified once into the cache, and unpacked once for the session; a server, a ledger."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import TeacherServer

from workbench import models
from workbench.ledger import Ledger

LONGEST_FIRST = ("test_end_to_end.py", "test_edge.py", "test_students.py", "test_kill.py")  # two workers end together


def pytest_configure() -> None:
    """A core for each worker of pytest-xdist, and for what it starts: two programs of many threads on the same cores wait for
    each other most of the time."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        own = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {own[int(worker.removeprefix("gw")) % len(own)]})


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
