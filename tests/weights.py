"""Folders of weights for tests: changed, compared, and what they say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from workbench.students.folders import read_tensors
from workbench.students.load import load_model, load_tokenizer

SAID = ["turn on the lamp", "timer 25 minutes für den Tee", "call Zoë ☎ now"]
HARD = ["naïve 日本語 🦙", "  two  spaces\r\n\ttabs", "<|im_start|>user<|im_end|>", "snake_case x=1234567890 ½ e\u0301"]


def changed(base: Path, out: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    """A copy of a folder with other weights and settings."""
    shutil.copytree(base, out)
    tensors, config = load_file(base / "model.safetensors"), json.loads((base / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out


@torch.no_grad()
def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """(T, V) in fp32."""
    return torch.as_tensor(load_model(folder, dtype=torch.float32)(torch.tensor([ids])).logits[0])


def same_tensors(*folders: Path) -> bool:
    here, there = map(read_tensors, folders)
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


def old_ids(child: Path, parent: Path) -> list[int]:
    """The parent's id of each token of a trimmed vocabulary."""
    theirs = load_tokenizer(parent).get_vocab()
    return [theirs[token] for token, _ in sorted(load_tokenizer(child).get_vocab().items(), key=lambda item: item[1])]
