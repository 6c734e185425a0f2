"""Packed rows against padded ones, and the frozen head's loss against torch's, in fp32: the same numbers and gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from workbench.students import losses
from workbench.students.batches import Encoded, collate
from workbench.students.load import load_model
from workbench.students.packed import is_packed, pack, states

LENGTHS = (3, 9, 1, 6)
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 50,
}  # fmt: skip


def rows() -> list[Encoded]:
    torch.manual_seed(1)
    return [Encoded(torch.randint(1, 50, (length + 2,)).tolist(), 2, range(length)) for length in LENGTHS]


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, attn_implementation="eager"))


def gpt2() -> GPT2LMHeadModel:
    """With learned places, and no groups of heads."""
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, attn_pdrop=0.0, attn_implementation="eager")
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_packed_rows_give_what_padded_ones_give(make: Any) -> None:
    batch = collate(rows(), 0)
    padded, packed = make(), make()
    assert pack(packed) and is_packed(packed) and not is_packed(padded)
    found = [states(model.base_model, batch.ids_B_T, batch.mask_B_T) for model in (padded, packed)]
    assert found[0].shape == (sum(LENGTHS) + 2 * len(LENGTHS), 32)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    for model in (padded, packed):
        losses.completion_loss(model, batch).backward()
    for (name, wanted), (_, grad) in zip(padded.named_parameters(), packed.named_parameters(), strict=True):
        torch.testing.assert_close(grad.grad, wanted.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_a_row_does_not_see_its_neighbours() -> None:
    model, (first, *others) = llama(), rows()
    pack(model)
    alone = collate([first], 0)
    beside = collate([first, *others], 0)
    wanted = states(model.base_model, alone.ids_B_T, alone.mask_B_T)
    found = states(model.base_model, beside.ids_B_T, beside.mask_B_T)[: len(first.ids)]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_model_with_attention_dropout_stays_padded() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL, attention_dropout=0.1))
    assert not pack(model) and not is_packed(model)


def test_a_model_with_a_window_stays_padded() -> None:
    model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=2))
    before = model.config._attn_implementation
    assert not pack(model) and not is_packed(model)
    assert model.config._attn_implementation == before


def test_a_model_that_reads_packed_rows_otherwise_stays_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways are compared on the model itself, whatever it says it supports."""
    other = llama().train()
    plain = other.model.layers[1].forward

    def shifted(state: torch.Tensor, *args: Any, **more: Any) -> Any:  # as a convolution over neighbours would
        return plain(state.roll(1, dims=1) if state.shape[0] == 1 else state, *args, **more)

    monkeypatch.setattr(other.model.layers[1], "forward", shifted)
    assert not pack(other) and not is_packed(other) and other.training


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_frozen_heads_loss_is_cross_entropy(balance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_SLICE", 4)  # several slices
    model, batch = llama(), collate(rows(), 0)
    wanted = losses.completion_loss(model, batch, balance)
    assert wanted.grad_fn.name() != "_FrozenHeadLossBackward"
    wanted.backward()
    grads = {name: param.grad for name, param in model.model.layers.named_parameters()}
    model.zero_grad()
    model.lm_head.weight.requires_grad_(False)
    found = losses.completion_loss(model, batch, balance)
    assert found.grad_fn.name() == "_FrozenHeadLossBackward"
    (3 * found).backward()
    torch.testing.assert_close(found, wanted)
    for name, param in model.model.layers.named_parameters():
        torch.testing.assert_close(param.grad, 3 * grads[name], atol=1e-6, rtol=1e-4, msg=name)


def test_balance_lets_rows_count_alike() -> None:
    model, (short, long, *_) = llama(), rows()
    each = [losses.completion_loss(model, collate([row], 0)).item() for row in (short, long)]
    both = collate([short, long], 0)
    assert losses.completion_loss(model, both, 1.0).item() == pytest.approx(sum(each) / 2, abs=1e-5)
    mean = (each[0] * LENGTHS[0] + each[1] * LENGTHS[1]) / (LENGTHS[0] + LENGTHS[1])
    assert losses.completion_loss(model, both).item() == pytest.approx(mean, abs=1e-5)


def test_the_real_student_is_packed(smollm2_hf: Path) -> None:
    model = load_model(smollm2_hf)
    assert pack(model)
    batch = collate(rows(), 0)
    with torch.no_grad():
        packed = states(model.base_model, batch.ids_B_T, batch.mask_B_T).float()
        model.set_attn_implementation("eager")
        padded = states(model.base_model, batch.ids_B_T, batch.mask_B_T).float()
    assert functional.cosine_similarity(packed, padded).min() > 0.99
