"""A family of experts, each pruned from the one before it, on real models as small as they come."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from small import TASK, here, write_task

from workbench import models, registry
from workbench.cascade import Member, sizes_of, told
from workbench.errors import ConfigError
from workbench.runs import read_lock
from workbench.scoring import Score


def test_sizes_are_read() -> None:
    assert sizes_of("30x1536, 30x1024") == [(30, 1536), (30, 1024)]
    for wrong in ("24", "24x", "x", "24x1280,", ""):
        with pytest.raises(ConfigError, match="blocks and neurons are wanted"):
            sizes_of(wrong)


def test_the_table(tmp_path: Path) -> None:
    task = registry.load(str(write_task(tmp_path)))
    family = [
        Member(
            name=name, folder=folder, size_bytes=size, dev=dev, exact=Score(dev, dev - 5, dev + 5), only_first=lost,
            only_this=won, against=0.5, seconds=seconds,
        )
        for name, folder, size, dev, lost, won, seconds in (
            ("the student", "student", 100_000_000, 60, 0, 0, 0.2),
            ("1 blocks, 64 neurons", "1x64", 40_000_000, 58, 3, 1, 0.1),
        )
    ]  # fmt: skip
    lines = told(task, family)
    assert "| the student | student | 100 MB | 60.0 | 60.0 (55.0 to 65.0) | – | – | – | 0.20 | 1.0 |" in lines
    assert "| 1 blocks, 64 neurons | 1x64 | 40 MB | 58.0 | 58.0 (53.0 to 63.0) | 1 | 3 | 0.500 | 0.10 | 2.0 |" in lines


def test_the_walk(tiny: Path, smollm2: Path, smollm2_hf: Path, tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    settings = ("shots.mode=fixed", "select.recombine=12", "train.max_steps=2", "train.evals=1", "train.r=4",
                "export.quants=['Q8_0']", "export.importance=false", "export.max_ratio=1", "student.max_tokens=8",
                "evaluate.timed=1")  # fmt: skip
    student = tmp_path / "student"  # as if it were made of a model of the catalogue
    shutil.copytree(tiny, student)
    (student / models.ORIGIN).write_text("smollm2-135m-instruct\n")
    arguments = [
        "cascade", "talk.py", "--sizes", "2x128,1x64", "--teacher", f"hf:{smollm2_hf}", "--student", str(student),
        *(w for s in settings for w in ("--set", s)),
    ]  # fmt: skip
    done = here(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    experts = sorted((tmp_path / "compare" / "talk-cascade").iterdir())
    assert [folder.name for folder in experts] == ["1x64", "2x128", "student"]
    assert all((folder / "model.gguf").is_file() and (folder / "Modelfile").is_file() for folder in experts)
    family = tmp_path / ".workbench" / "family"
    child, between = (next(path for path in family.glob(f"talk-{size}-*[0-9a-f]")) for size in ("1x64", "2x128"))
    few, whole = (json.loads((folder / "config.json").read_text()) for folder in (between, tiny))
    assert few == whole | {"vocab_size": few["vocab_size"]}, "the first loses tokens alone"
    made, parent = (json.loads((folder / "config.json").read_text()) for folder in (child, tiny))
    assert (made["num_hidden_layers"], made["intermediate_size"]) == (1, 64)
    assert made["vocab_size"] < parent["vocab_size"]
    assert "| 1 blocks, 64 neurons |" in done.stdout
    newest = max((tmp_path / "runs" / "talk").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    last = tomllib.loads((newest / "config.toml").read_text())
    assert (last["train"]["resplit"], last["train"]["quantize_base"]) == (0.5, "bf16")
    assert (last["distil"]["method"], last["distil"]["last_mile"]) == ("parent", 0.3)
    assert (last["train"]["lr"], last["distil"]["hidden"]) == ("none", "none"), "neither was set"
    expert = here(tmp_path, "audit", str(read_lock(newest).artifacts["export"] / "expert"))
    assert f"student  {child.name}, of smollm2-135m-instruct, Apache-2.0" in expert.stdout
    assert "read by  weights, of smollm2-135m-instruct, Apache-2.0" in expert.stdout
    assert "in the last 30% of the steps by weights rounded to the Q8_0 grid" in expert.stdout
    assert (tmp_path / "compare" / "talk-cascade.svg").is_file()
    again = here(tmp_path, *arguments)
    assert again.stdout.count("train: skipped") == 3, again.stdout

    for sizes in ("9x64", "1x64,1x128", "2x128,2x128"):
        wrong = here(tmp_path, *(word if word != "2x128,1x64" else sizes for word in arguments))
        assert wrong.returncode == 1 and "name smaller ones, the largest first" in wrong.stderr
        assert "---" not in wrong.stdout, "nothing was walked"
