"""A family of experts, each pruned from the one before it, on real models as small as they come."""

import json
from pathlib import Path

import pytest
from small import TASK, here, write_task

from workbench import registry
from workbench.cascade import Member, sizes_of, told
from workbench.errors import ConfigError
from workbench.scoring import Score


def test_sizes_are_read() -> None:
    assert sizes_of("24x1280, 18x1024") == [(24, 1280), (18, 1024)]
    for wrong in ("24", "24x", "x", "24x1280,", ""):
        with pytest.raises(ConfigError, match="blocks and neurons are wanted"):
            sizes_of(wrong)


def test_the_table(tmp_path: Path) -> None:
    task = registry.load(str(write_task(tmp_path)))
    family = [
        Member(
            name=name, size_bytes=size, dev=dev, exact=Score(dev, dev - 5, dev + 5), only_first=lost, only_this=won,
            against=0.5, seconds=seconds,
        )
        for name, size, dev, lost, won, seconds in (
            ("the student", 100_000_000, 60, 0, 0, 0.2), ("1 blocks, 64 neurons", 40_000_000, 58, 3, 1, 0.1)
        )
    ]  # fmt: skip
    lines = told(task, family)
    assert "| the student | 100 MB | 60.0 | 60.0 (55.0 to 65.0) | – | – | – | 0.20 | 1.0 |" in lines
    assert "| 1 blocks, 64 neurons | 40 MB | 58.0 | 58.0 (53.0 to 63.0) | 1 | 3 | 0.500 | 0.10 | 2.0 |" in lines


def test_the_walk(tiny: Path, smollm2: Path, smollm2_hf: Path, tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    settings = ("shots.mode=fixed", "select.recombine=12", "train.max_steps=2", "train.evals=1", "train.r=4",
                "export.quants=['Q8_0']", "export.importance=false", "export.max_ratio=1", "student.max_tokens=8",
                "evaluate.timed=1")  # fmt: skip
    arguments = [
        "cascade", "talk.py", "--sizes", "1x64", "--teacher", f"hf:{smollm2_hf}", "--student", str(tiny),
        *(w for s in settings for w in ("--set", s)),
    ]  # fmt: skip
    done = here(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (child,) = (path for path in (tmp_path / ".workbench" / "family").iterdir() if not path.name.endswith("-trimmed"))
    made, parent = (json.loads((folder / "config.json").read_text()) for folder in (child, tiny))
    assert (made["num_hidden_layers"], made["intermediate_size"]) == (1, 64)
    assert made["vocab_size"] < parent["vocab_size"]
    assert "| 1 blocks, 64 neurons |" in done.stdout
    assert (tmp_path / "compare" / "talk-cascade.svg").is_file()
    again = here(tmp_path, *arguments)
    assert again.stdout.count("train: skipped") == 2, again.stdout

    for sizes in ("9x64", "1x64,1x128", "2x128,2x128"):
        wrong = here(tmp_path, *(word if word != "1x64" else sizes for word in arguments))
        assert wrong.returncode == 1 and "name smaller ones, the largest first" in wrong.stderr
        assert "---" not in wrong.stdout, "nothing was walked"
