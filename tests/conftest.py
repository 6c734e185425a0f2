"""Shared: the real student, fetched and verified once into the cache, and unpacked once for the session; a server, a ledger."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import TeacherServer
from small import Told

from workbench import models
from workbench.cli import main
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


@pytest.fixture(scope="session")
def tiny(smollm2_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights under SmolLM2's tokenizer: its logits are as good as any to compare."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from workbench.students.load import load_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = load_tokenizer(smollm2_hf)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(shape).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TeacherServer]:
    """A teacher that says `[]` to everything."""
    with TeacherServer(tmp_path / "log.jsonl", text="[]") as running:
        yield running


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite", run="r") as opened:
        yield opened


@pytest.fixture
def fails(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs the command line in this process (a fresh one each costs seconds) and gives its two lines: error and hint."""
    monkeypatch.chdir(project)

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["workbench", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        err = capsys.readouterr().err
        assert caught.value.code == 1, err
        assert "Traceback" not in err
        error, hint = (line for line in err.splitlines() if line)
        assert error.startswith("error: ")
        assert hint.startswith("next:  ")
        return error.removeprefix("error: "), hint.removeprefix("next:  ")

    return run
