"""Weights packed for the processor: the same answers as the layers' own, where the processor can do it at all."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.students.prepacked import prepack

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 50, "tie_word_embeddings": True, "attention_bias": True}  # fmt: skip
LINEARS = 2 * 7 + 1
IDS = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))


def llama(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL)).to(dtype).eval()


@torch.inference_mode()
def test_packed_weights_give_the_same_and_the_plain_ones_are_let_go() -> None:
    model = llama(torch.bfloat16)
    plain = model(input_ids=IDS).logits
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert prepack(model) == (LINEARS if able else 0)
    assert (model.lm_head.weight.numel() == 0) == able
    assert model.get_input_embeddings().weight.shape == (50, 64)  # shared with the head, and still read
    torch.testing.assert_close(model(input_ids=IDS).logits, plain, atol=0.02, rtol=0.02)


def test_other_precisions_are_left_alone() -> None:
    model = llama(torch.float32)
    assert prepack(model) == 0
    assert model.lm_head.weight.shape == (50, 64)
