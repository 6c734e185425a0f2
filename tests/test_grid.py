"""The grids are llama.cpp's own, and a student that is trained on one is what its file will be."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.errors import StudentError
from workbench.students import qlora
from workbench.students.grid import BLOCK, GRIDS
from workbench.students.lesson import Lesson
from workbench.students.load import load_model
from workbench.students.lora import _GridProduct, onto_grid, with_lora
from workbench.students.settings import Grid, Pair, Progress, TrainConfig


@pytest.mark.parametrize("name", list(GRIDS))
def test_a_grid_is_the_quantizers(name: Grid) -> None:
    draw = torch.Generator().manual_seed(3)
    weights = torch.randn(48, 96, generator=draw).bfloat16().float() * torch.rand(48, 1, generator=draw)
    weights[5, :32] = 0  # a block of nothing
    weights[6, 3] = -40  # one that dwarfs its block
    kind = GGMLQuantizationType[name]
    wanted = quants.dequantize(quants.quantize(weights.numpy(), kind), kind)
    np.testing.assert_array_equal(GRIDS[name](weights).numpy(), wanted)


def test_rounding_once_is_enough() -> None:
    weights = torch.randn(8, 64, generator=torch.Generator().manual_seed(4))
    for grid in GRIDS.values():
        once = grid(weights)
        torch.testing.assert_close(grid(once), once, rtol=2e-3, atol=1e-6)


def test_the_product_is_that_of_rounded_weights_and_its_gradient_passes_through() -> None:
    draw = torch.Generator().manual_seed(5)
    x, weight, a, b = (torch.randn(*shape, generator=draw) for shape in ((7, 64), (40, 64), (4, 64), (40, 4)))
    for leaf in (x, a, b):
        leaf.requires_grad_()
    rounded = GRIDS["Q4_0"]((weight + 0.5 * b @ a).detach().bfloat16().float())
    found = _GridProduct.apply(x, weight, a, b, 0.5, GRIDS["Q4_0"])
    torch.testing.assert_close(found, x @ rounded.T)
    found.sin().sum().backward()
    by_grid = [leaf.grad.clone() for leaf in (x, a, b)]  # type: ignore[union-attr]
    for leaf in (x, a, b):
        leaf.grad = None
    merged = weight + 0.5 * b @ a
    through = merged + (rounded - merged).detach()
    functional.linear(x, through).sin().sum().backward()
    for leaf, wanted in zip((x, a, b), by_grid, strict=True):
        torch.testing.assert_close(leaf.grad, wanted, rtol=1e-4, atol=1e-4)


def test_a_fresh_adapter_beside_a_grid_is_the_rounded_model(smollm2_hf: Path) -> None:
    plain = load_model(smollm2_hf, dtype=torch.float32)
    ids = torch.tensor([[5, 80, 300, 12]])
    head = plain.get_output_embeddings()
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                module.weight.copy_(GRIDS["Q4_0"](module.weight.bfloat16().float()))
        wanted = plain(ids).logits
    model = with_lora(
        load_model(smollm2_hf, dtype=torch.float32), r=4, alpha=8, dropout=0.0, dtype=torch.float32, grid=GRIDS["Q4_0"]
    )
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-4, atol=1e-3)
        onto_grid(model, None)
        assert (model(ids).logits - wanted).abs().max() > 0.1, "not rounded any more"
        onto_grid(model, GRIDS["Q4_0"])
        torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-4, atol=1e-3)


def test_a_layer_whose_inputs_fill_no_blocks_is_not_rounded_as_in_the_file() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4
    )
    torch.manual_seed(6)
    plain = LlamaForCausalLM(config)
    model = with_lora(copy.deepcopy(plain), r=2, alpha=4, dropout=0.0, dtype=torch.float32, grid=GRIDS["Q4_0"])
    head, kept = plain.get_output_embeddings(), []
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                if module.in_features % BLOCK:
                    kept.append(name)
                else:
                    module.weight.copy_(GRIDS["Q4_0"](module.weight.bfloat16().float()))
        ids = torch.tensor([[5, 8, 30, 12]])
        assert kept == ["model.layers.0.mlp.down_proj"]
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
        onto_grid(model, None)
        assert (model(ids).logits - plain(ids).logits).abs().max() > 1e-4, "not rounded any more"
        onto_grid(model, GRIDS["Q4_0"])
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)


def test_in_the_last_mile_alone_weights_are_rounded_and_only_its_adapters_count(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind the switch, it goes on as it was."""
    switched: list[object] = []
    monkeypatch.setattr(qlora, "onto_grid", lambda model, grid: (switched.append(grid), onto_grid(model, grid)))
    rows = [Pair(prompt=f"say {word}", completion=word) for word in ("one", "two", "three", "four")]
    config = TrainConfig(
        quantize_base="bf16", r=2, lr=0.02, epochs=20, max_steps=8, tokens_per_step=60, evals=8, checkpoint_seconds=0
    )

    def learned(work: Path, dies_at: int | None = None) -> list[dict[str, float]]:
        def tell(progress: Progress) -> None:
            if progress.step == dies_at:
                raise KeyboardInterrupt

        qlora.train(tiny, rows, rows, config, work, tell, lesson=Lesson(grid="Q4_0", last_mile=0.5))
        return [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]

    whole = learned(tmp_path / "whole")
    assert switched == [None, GRIDS["Q4_0"]]
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["best_step"] > 4
    with pytest.raises(KeyboardInterrupt):
        learned(tmp_path / "killed", dies_at=6)
    switched.clear()
    again = learned(tmp_path / "killed")
    assert switched == [], "it was made with the grid on"
    assert [line["loss"] for line in again[1:]] == pytest.approx([line["loss"] for line in whole[1:]], rel=1e-3)
    before, same = (
        load_file(tmp_path / name / "unrounded" / "adapter_model.safetensors") for name in ("whole", "killed")
    )
    assert before and all(torch.equal(tensor, same[name]) for name, tensor in before.items())


def test_dropout_and_a_grid_do_not_go_together(tiny: Path) -> None:
    with pytest.raises(StudentError, match="takes no dropout"):
        with_lora(load_model(tiny), r=4, alpha=8, dropout=0.1, dtype=torch.float32, grid=GRIDS["Q8_0"])
