"""The importance matrix: how much each input channel of each linear layer carries on the task's own rows.

For a weight W of shape (out, in), llama.cpp's quantizer may weigh the error of column j by the mean of x_j**2 over all
tokens that passed through W. This is measured here with forward hooks in transformers on the unquantized folder,
because neither prebuilt llama.cpp at hand exposes its own collector, and written in llama.cpp's GGUF imatrix format
(llama.cpp, tools/imatrix/imatrix.cpp): `<tensor>.in_sum2`, F32, (1, in), the sum of squares, and `<tensor>.counts`,
F32, (1, 1), the number of tokens. `llama-quantize --imatrix` reads the same file.

Left out, as llama.cpp's own tool leaves them out: the embedding and the output layer; they are quantized without it.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.edge.gguf_file import open_gguf, value
from workbench.errors import EdgeError
from workbench.machine import multiplies_bf16

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


def importance(model_dir: Path, gguf: Path, texts: Sequence[str], out: Path, *, max_tokens: int = 512) -> Path:
    """Writes the importance matrix of `texts` to `out` and gives it back.

    `model_dir` is the merged HF folder that `gguf` was converted from; `gguf` tells the tensors' names and widths.
    `texts` are whole chats as rendered for training, special tokens included; each is cut after `max_tokens` tokens.
    Some 10,000 tokens are enough to see every channel. Runs on the CPU, one text at a time.
    Raises `EdgeError` if there are no texts or if a linear layer of the folder has no tensor in the file.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not texts:
        raise EdgeError("an importance matrix needs texts and got none", "pass the rendered rows of the shard")
    widths = _widths(gguf)
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    dtype = torch.bfloat16 if multiplies_bf16() else torch.float32
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    model.train(False)
    names = _tensor_names(gguf, [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)], widths)
    sums = {name: np.zeros(widths[name], np.float64) for name in names.values()}
    counts = dict.fromkeys(sums, 0)

    def watch(name: str) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            x_T_C = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            sums[name] += x_T_C.square().sum(dim=0).double().numpy()
            counts[name] += x_T_C.shape[0]

        return hook

    hooks = [model.get_submodule(m).register_forward_pre_hook(watch(name)) for m, name in names.items()]
    try:
        with torch.inference_mode():
            for text in texts:
                ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :max_tokens]
                if ids.shape[1]:
                    model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(counts.values()):
        unseen = [name for name, n in counts.items() if not n]
        raise EdgeError(f"no token passed through {unseen[0]} and {len(unseen) - 1} more", "are all the texts empty?")
    entries = {name: (sum2.astype(np.float32), counts[name]) for name, sum2 in sums.items()}
    write_imatrix(out, entries, chunks=len(texts), size=max_tokens)
    return out


def write_imatrix(out: Path, entries: dict[str, tuple["Vector", int]], *, chunks: int, size: int) -> None:
    """`entries` maps a tensor's name to (sum of squares over tokens, (in,); number of tokens). Published by rename."""
    import numpy as np
    from gguf import GGUFWriter

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".imatrix-") as work:
        path = Path(work) / "imatrix.gguf"
        writer = GGUFWriter(path, arch="imatrix")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", ["workbench: the task's own rows"])
        writer.add_uint32("imatrix.chunk_count", chunks)
        writer.add_uint32("imatrix.chunk_size", size)
        for name, (sum2, count) in sorted(entries.items()):
            writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(sum2[None, :], dtype=np.float32))
            writer.add_tensor(f"{name}.counts", np.array([[count]], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        path.replace(out)


def read_imatrix(path: Path) -> dict[str, "Vector"]:
    """Tensor name -> mean of x**2 per input channel, (in,). `EdgeError` if it is no such file or not finite."""
    import numpy as np

    reader = open_gguf(path)
    if value(reader, "general.type") != "imatrix":
        raise EdgeError(f"{path} is a GGUF but no importance matrix", "make one with workbench.edge.importance")
    data = {t.name: np.asarray(t.data, np.float32).reshape(-1) for t in reader.tensors}
    means: dict[str, Vector] = {}
    for key, sum2 in data.items():
        if key.endswith(".in_sum2"):
            name = key.removesuffix(".in_sum2")
            means[name] = sum2 / max(float(data[f"{name}.counts"][0]), 1.0)
            if not np.isfinite(means[name]).all():
                raise EdgeError(f"the importance of {name} in {path} is not finite", "measure it again, in fp32")
    return means


def weight_error(src: Path, quantized: Path, imatrix: Path | None = None) -> dict[str, float]:
    """What the quantization did: per 2-D tensor, sum(i * (w - q)**2) / sum(i * w**2), a fraction, 0 is lossless.

    `i` is the importance of the weight's input channel, 1 without `imatrix` and for tensors that it does not hold.
    A value near 1 or not finite means that the tensor is destroyed, whatever the file's loader says.
    """
    import numpy as np

    weigh = read_imatrix(imatrix) if imatrix else {}
    after = {t.name: t for t in open_gguf(quantized).tensors}
    errors: dict[str, float] = {}
    for name, before in _matrices(src):
        w_O_I = _floats(before)
        i_I = weigh.get(name, np.ones(w_O_I.shape[-1], np.float32))
        lost = np.square(w_O_I - _floats(after[name])) @ i_I
        errors[name] = float(lost.sum(dtype=np.float64) / (np.square(w_O_I) @ i_I).sum(dtype=np.float64))
    return errors


def _matrices(path: Path) -> Iterator[tuple[str, Any]]:
    for tensor in open_gguf(path).tensors:
        if len(tensor.shape) == 2:
            yield tensor.name, tensor


def _floats(tensor: Any) -> "NDArray[np.float32]":
    """The tensor's values, (out, in)."""
    from gguf import dequantize

    values: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
    return values.reshape(tensor.shape[::-1])


def _widths(gguf: Path) -> dict[str, int]:
    """Name -> number of input channels of each matrix in a block; GGUF lists the input dimension first."""
    return {name: int(tensor.shape[0]) for name, tensor in _matrices(gguf) if name.startswith("blk.")}


def _tensor_names(gguf: Path, modules: Sequence[str], widths: dict[str, int]) -> dict[str, str]:
    """HF module name -> GGUF tensor name, for the linear layers inside blocks."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    reader = open_gguf(gguf)
    arch_name = value(reader, "general.architecture")
    arch: MODEL_ARCH | None = next((a for a, n in MODEL_ARCH_NAMES.items() if n == arch_name), None)
    if arch is None:
        raise EdgeError(f"{gguf} is of architecture {arch_name!r}, unknown to the gguf package", "update gguf")
    lookup = get_tensor_name_map(arch, value(reader, f"{arch_name}.block_count"))
    names = {m: lookup.get_name(f"{m}.weight", try_suffixes=(".weight",)) for m in modules}
    found = {m: n for m, n in names.items() if n is not None and n.startswith("blk.")}
    lost = [m for m in modules if m not in found and "layers." in m] + [m for m, n in found.items() if n not in widths]
    if lost or not found:
        raise EdgeError(
            f"{gguf} has no tensor for {len(lost)} linear layers of the folder, such as {', '.join(lost[:3]) or 'any'}",
            "convert this very folder with to_gguf and pass that file",
        )
    return found
