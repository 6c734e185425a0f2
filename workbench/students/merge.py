"""An adapter and its base become one plain folder: bf16 safetensors, tokenizer, chat template.

Merged in fp32 either onto the original weights, or onto the weights as NF4 gives them back, which is what a QLoRA
adapter was trained against and has learnt to correct. Which is better differs by task: `dev_exact` lets the caller
choose.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import bitsandbytes
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from workbench.errors import StudentError
from workbench.students.batches import encode
from workbench.students.grid import BLOCK, Grid
from workbench.students.load import load_model, load_tokenizer
from workbench.students.losses import dev_score
from workbench.students.packed import pack
from workbench.students.rendering import rendering_for
from workbench.students.settings import Pair


def merge(base: Path, adapter: Path, out: Path, onto: Literal["base", "quantized"]) -> Path:
    """Write the merged model into the new folder `out` and return it. A folder already there is replaced.

    Needs 4 bytes of memory for each parameter. Raises StudentError if base or adapter cannot be read.
    """
    model = load_model(base, dtype=torch.float32, here=torch.device("cpu"))
    if onto == "quantized":
        _through_nf4(model)
    try:
        merged: Any = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise StudentError(f"cannot merge {adapter}: {error}", "was it trained on this base? train it again") from error
    merged = merged.to(torch.bfloat16)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = rendering_for(base).template
    for settings in (merged.config, merged.generation_config):
        settings.pad_token_id, settings.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        merged.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        shutil.rmtree(out, ignore_errors=True)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


@torch.no_grad()
def dev_exact(folder: Path, dev: Sequence[Pair], grid: Grid | None = None, tokens: int = 1500) -> tuple[float, float]:
    """(exact match as a share from 0 to 1, nats per completion token) of a plain folder on `dev`, without generating.

    With a `grid` its weights are rounded first, as a file's are; those that are not of whole blocks stay, as there. `tokens` is
    the size of a batch without padding. Raises StudentError if `dev` is empty or the folder cannot be loaded.
    """
    if not dev:
        raise StudentError("there are no dev rows to score", "put examples into the task's dev split")
    tokenizer = load_tokenizer(folder)
    rows = encode(tokenizer, rendering_for(folder), dev)
    model = load_model(folder)
    if grid is not None:
        for layer in _layers(model):
            if layer.in_features % BLOCK == 0:
                layer.weight.copy_(grid(layer.weight.float()))
    pack(model)
    score = dev_score(model, rows, pad=int(tokenizer.pad_token_id), tokens=tokens)
    return score.exact, score.loss


@torch.no_grad()
def _through_nf4(model: PreTrainedModel) -> None:
    """Replace each weight that `load_model(nf4=True)` would pack by what it unpacks to; the head stays as it is."""
    for layer in _layers(model):
        packed, state = bitsandbytes.functional.quantize_4bit(layer.weight.to(torch.bfloat16), quant_type="nf4")
        layer.weight.copy_(bitsandbytes.functional.dequantize_4bit(packed, state).float())


def _layers(model: PreTrainedModel) -> Iterator[torch.nn.Linear]:
    """Those that have adapters."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield module
