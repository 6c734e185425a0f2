"""The fused RMSNorm against transformers' own, in fp32: the same numbers, the same gradients, and nobody else's norm."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from workbench.students.norms import fuse_norms

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50}  # fmt: skip


def frozen_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    for name, param in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(param, mean=1, std=0.3)
        param.requires_grad_("proj" in name)
    return model


def test_the_fused_norm_is_the_models_own() -> None:
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    plain, fused = frozen_llama(), frozen_llama()
    assert fuse_norms(fused) == 5
    losses = [model(input_ids=ids, labels=ids).loss for model in (plain, fused)]
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-6)
    for loss in losses:
        loss.backward()
    trained = [(name, param) for name, param in plain.named_parameters() if param.requires_grad]
    found = dict(fused.named_parameters())
    assert len(trained) == 14
    for name, param in trained:
        assert param.grad is not None and param.grad.abs().max() > 1e-5, name
        torch.testing.assert_close(found[name].grad, param.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_a_trained_norm_and_another_kind_of_norm_are_left_alone() -> None:
    trained = LlamaForCausalLM(LlamaConfig(**SMALL))
    assert fuse_norms(trained) == 0
    other = Gemma2ForCausalLM(Gemma2Config(**SMALL)).requires_grad_(False)
    for layer in other.model.layers:  # its weight is what is added to 1
        layer.input_layernorm.variance_epsilon = layer.input_layernorm.eps
    assert fuse_norms(other) == 0
