"""A Hugging Face folder as its parts: settings and tensors, read and written without making a model of them.

So nothing is rounded, and a tensor that nobody touches stays bit for bit what it was.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from workbench.errors import StudentError
from workbench.machine import temporary_folder

_SETTINGS = (".json", ".jinja", ".txt", ".model")  # what a folder holds beside its weights


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of plain 16- or 32-bit weights. Raises StudentError."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StudentError(f"cannot read the model in {folder}: {error}", "it needs a config.json") from error
    if "quantization_config" in config:
        raise StudentError(f"the weights in {folder} are quantized", "give the folder that they were quantized from")
    return config


def read_shapes(folder: Path) -> dict[str, list[int]]:
    """The shapes of a folder's tensors by their names; no weights are read. Raises StudentError."""
    found: dict[str, list[int]] = {}
    with _told(folder):
        for path in _files(folder):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return found


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder by their names, as they are stored. Raises StudentError."""
    found: dict[str, torch.Tensor] = {}
    with _told(folder):
        for path in _files(folder):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """config.json and one model.safetensors."""
    write_json(folder / "config.json", config)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")


def copy_settings(folder: Path, out: Path) -> None:
    """The files beside weights and config.json: tokenizer, chat template, settings of generation."""
    for path in folder.iterdir():
        if path.suffix in _SETTINGS and path.name != "config.json" and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` if all goes well; a folder already there is replaced."""
    with temporary_folder(f".{out.name}-", out.parent) as temporary:
        yield temporary
        shutil.rmtree(out, ignore_errors=True)
        temporary.replace(out)


def _files(folder: Path) -> list[Path]:
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise StudentError(f"{folder} holds no weights", "save the model as safetensors")
    return found


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StudentError(f"cannot read the weights in {folder}: {error}") from error
