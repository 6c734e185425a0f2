"""Shared: the real student, fetched and verified once into the cache, and unpacked once for the session."""

from pathlib import Path

import pytest

from workbench import models


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF of the default student. A machine that cannot get it fails here, with the reason."""
    return models.fetch("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_hf(smollm2: Path) -> Path:
    """The same, as a Hugging Face folder, where a run would have it."""
    from workbench.students.load import prepare_base

    return prepare_base(smollm2, models.cache_dir() / "students")
