"""Students of other families become GGUF files too."""

from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from workbench import edge
from workbench.students.load import load_tokenizer
from workbench.students.rendering import rendering_for


def test_a_qwen_student_is_converted_and_answers(smollm2_hf: Path, smollm2: Path, tmp_path: Path) -> None:
    """The converter's module of that family names architectures that the official gguf package does not know."""
    folder, tokenizer = tmp_path / "qwen", load_tokenizer(smollm2_hf)
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(shape).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = edge.to_gguf(folder, tmp_path / "qwen.gguf", rendering_for(folder), base_gguf=smollm2)
    with edge.LlamaServer(made, slots=1, ctx_per_slot=128, threads=2) as server:
        server.check()
