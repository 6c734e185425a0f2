"""The fused LoRA product against peft's own layers, in fp32: the same loss, the same gradients."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.students import lora


def loss_and_grads(bias: bool, seed: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=50, attention_bias=bias)  # fmt: skip
    model = lora.with_lora(LlamaForCausalLM(config), r=3, alpha=6, dropout=0.0, dtype=torch.float32)
    trained = {name: param for name, param in model.named_parameters() if param.requires_grad}
    for name, param in model.named_parameters():
        if param.requires_grad or name.endswith(".bias"):  # peft begins with B = 0, transformers with a bias of 0
            torch.nn.init.normal_(param, std=0.3)
    ids = torch.randint(0, 50, (3, 7))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: param.grad for name, param in trained.items() if param.grad is not None}


@pytest.mark.parametrize("bias", [False, True])
def test_the_fused_product_is_lora(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, grads = loss_and_grads(bias)
    untouched: Callable[..., None] = lambda *_: None  # noqa: E731
    monkeypatch.setattr(lora, "_fuse", untouched)
    wanted_loss, wanted = loss_and_grads(bias)
    assert loss == pytest.approx(wanted_loss, abs=1e-6)
    assert len(grads) == len(wanted) == 2 * 2 * 7
    for name, grad in wanted.items():
        assert grad.abs().max() > 1e-4, name
        torch.testing.assert_close(grads[name], grad, atol=1e-6, rtol=1e-4)


def test_dropout_is_left_to_peft() -> None:
    model = lora.with_lora(LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1,
                                                        num_attention_heads=4, vocab_size=50)),
                           r=3, alpha=6, dropout=0.5, dtype=torch.float32)  # fmt: skip
    model.train()
    assert not any("forward" in vars(layer) for layer in model.modules())
