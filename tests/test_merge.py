"""Which sum of base and adapter ships: all are made, each is scored as its file will have it, the best on dev is kept."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import write_task
from transformers import AutoConfig, AutoModelForCausalLM

from workbench import registry
from workbench.config import load_config
from workbench.ledger import Ledger
from workbench.stages import merge
from workbench.stages.context import Context, write_json, write_jsonl
from workbench.stages.job import Job, learn
from workbench.stages.merge import ROUNDED, Way, as_kept, kept_rounded, told, ways_of
from workbench.stages.train import pairs
from workbench.students import merge as students
from workbench.students.grid import GRIDS
from workbench.students.load import load_model

TRAIN: dict[str, Any] = {"r": 4, "lr": 0.01, "max_steps": 4, "tokens_per_step": 200, "evals": 4}


@pytest.fixture
def context(tiny: Path, tmp_path: Path, ledger: Ledger) -> Iterator[Context]:
    """A training by `qat` lies before the merge."""
    task = registry.load(str(write_task(tmp_path)))
    config = load_config(student={"model": str(tiny)}, train=TRAIN, distil={"method": "qat", "last_mile": 0.5})
    folders = {name: tmp_path / name for name in ("examples", "train", "out")}
    for folder in folders.values():
        folder.mkdir()
    dev = task.examples("dev")
    write_jsonl(folders["examples"] / "examples.jsonl", dev)
    rows = tuple(pairs(task, dev))
    job = Job(base=tiny, rows=rows, dev=rows, config=config.train, distil=config.distil, work=folders["train"])
    learn(job, lambda _: None)
    yield Context(task, config, folders, folders["out"], ledger, tmp_path, lambda _: None)


def test_after_a_last_mile_the_adapter_of_before_is_tried_too(
    context: Context, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on the grid of the file; the one that is best there is what lies in weights/."""
    seen: dict[str, tuple[float, float]] = {}
    real = students.dev_exact

    def scored(folder: Path, dev: Any, grid: Any) -> tuple[float, float]:
        assert grid is GRIDS["Q4_0"]
        loss = real(folder, dev, grid)[1]
        assert loss != real(folder, dev)[1], "the grid is felt"
        seen[folder.name] = (0.5, loss)
        return seen[folder.name]

    monkeypatch.setattr(students, "dev_exact", scored)
    merge.run(context)
    assert list(seen) == [ROUNDED, "quantized", "base"] and len({loss for _, loss in seen.values()}) == 3
    best = min(seen, key=lambda name: seen[name][1])
    assert kept_rounded(context.out) is (best == ROUNDED)
    assert [path.name for path in sorted(context.out.iterdir())] == ["merge.json", "weights"]
    assert (
        real(context.out / "weights", pairs(context.task, context.examples("dev")), GRIDS["Q4_0"])[1] == seen[best][1]
    )


@pytest.mark.parametrize("best", [ROUNDED, "quantized", "base"])
def test_any_of_them_may_be_kept(context: Context, monkeypatch: pytest.MonkeyPatch, best: str) -> None:
    monkeypatch.setattr(students, "dev_exact", lambda folder, dev, grid: (0.6 if folder.name == best else 0.5, 1.0))
    merge.run(context)
    assert kept_rounded(context.out) is (best == ROUNDED)
    assert as_kept(context.config.distil, context.out).last_mile == (0.5 if best == ROUNDED else 0)
    line = told(context.out)
    assert line.endswith("% exact on dev, rounded to the Q4_0 grid") and line.count("50.0") == 2
    assert line.startswith(
        "the adapter of the last mile 60.0" if best == ROUNDED else "the adapter of before the last mile on"
    )


def test_without_a_last_mile_too_what_counts_is_the_file(
    context: Context, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is best unrounded may be worth little in a file of four bits."""
    plain = load_config(student={"model": str(tiny)}, train=TRAIN, distil={"method": "sft"})
    context = replace(context, config=plain, inputs={**context.inputs, "train": tmp_path / "plain"})
    rows = tuple(pairs(context.task, context.examples("dev")))
    learn(Job(base=tiny, rows=rows, dev=rows, config=plain.train, distil=plain.distil, work=tmp_path / "plain"), print)

    def scored(folder: Path, dev: Any, grid: Any) -> tuple[float, float]:
        unrounded, in_file = (0.5, 0.1) if folder.name == "base" else (0.4, 0.3)
        return (in_file if grid is GRIDS["Q4_0"] else unrounded), 1.0

    monkeypatch.setattr(students, "dev_exact", scored)
    merge.run(context)
    assert told(context.out) == (
        "the adapter on the base in NF4 30.0, the adapter on the base 10.0 % exact on dev, rounded to the Q4_0 grid"
    )


def test_what_there_is_to_try(tmp_path: Path) -> None:
    nf4, whole = (load_config(train={"quantize_base": kind}) for kind in ("nf4", "bf16"))
    (tmp_path / "adapter").mkdir()
    adapter, before = tmp_path / "adapter", tmp_path / "unrounded"
    write_json(tmp_path / "summary.json", {})
    assert ways_of(nf4, tmp_path) == {"quantized": Way(adapter, "quantized"), "base": Way(adapter, "base")}
    assert ways_of(whole, tmp_path) == {"base": Way(adapter, "base")}
    write_json(tmp_path / "summary.json", {"rounded": False})  # the minutes were up before the last mile
    assert list(ways_of(nf4, tmp_path)) == ["quantized", "base"]
    write_json(tmp_path / "summary.json", {"rounded": True})  # from the first step on
    assert ways_of(nf4, tmp_path) == {ROUNDED: Way(adapter, "quantized")}
    before.mkdir()
    assert ways_of(whole, tmp_path) == {ROUNDED: Way(adapter, "base"), "base": Way(before, "base")}


def test_a_score_on_the_grid_is_that_of_rounded_weights(context: Context, tiny: Path, tmp_path: Path) -> None:
    rounded = load_model(tiny)
    with torch.no_grad():
        for block in rounded.model.layers:
            for layer in block.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.weight.copy_(GRIDS["Q8_0"](layer.weight.float()))
    rounded.save_pretrained(tmp_path / "rounded")
    for file in tiny.glob("tokenizer*"):
        (tmp_path / "rounded" / file.name).write_bytes(file.read_bytes())
    dev = pairs(context.task, context.examples("dev"))
    assert students.dev_exact(tiny, dev, GRIDS["Q8_0"]) == students.dev_exact(tmp_path / "rounded", dev)
    assert students.dev_exact(tiny, dev, GRIDS["Q8_0"]) != students.dev_exact(tiny, dev)


def test_weights_that_are_not_of_whole_blocks_stay(context: Context, tiny: Path, tmp_path: Path) -> None:
    """llama.cpp leaves them in 16 bits."""
    config = AutoConfig.from_pretrained(tiny, intermediate_size=120)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "odd")
    for file in tiny.glob("tokenizer*"):
        (tmp_path / "odd" / file.name).write_bytes(file.read_bytes())
    dev, seen = pairs(context.task, context.examples("dev")), set[int]()

    def noted(weight_O_I: torch.Tensor) -> torch.Tensor:
        seen.add(weight_O_I.shape[1])
        return GRIDS["Q4_0"](weight_O_I)

    students.dev_exact(tmp_path / "odd", dev, noted)
    assert seen == {64}
