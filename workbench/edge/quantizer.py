"""A 16-bit GGUF -> a smaller one, by llama.cpp's own quantizer (the one inside cyllama), in a short-lived child.

cyllama offers `model_quantize` but no way to hand it an importance matrix: the field is a raw pointer in a C struct
that Python cannot set. The child sets it through ctypes, in the struct of llama.cpp's public header (`llama.h`,
`llama_model_quantize_params`, `llama_model_imatrix_data`), after it has checked that two other fields of the struct
are where that header puts them. `quantize` then demands llama.cpp's own word in the log that the matrix was taken.

K-quants need rows of a multiple of 256; other tensors fall back to a larger type (SmolLM2-135M: most of them).
"""

import ctypes
import re
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench.edge import child
from workbench.edge.gguf_file import check_gguf, open_gguf
from workbench.edge.imatrix import read_imatrix
from workbench.errors import EdgeError
from workbench.machine import cores

# Name -> llama_ftype (llama.h). Largest first.
QUANTS: dict[str, int] = {
    "Q8_0": 7,
    "Q6_K": 18,
    "Q5_1": 9,
    "Q5_K_M": 17,
    "Q5_K_S": 16,
    "Q5_0": 8,
    "Q4_1": 3,
    "Q4_K_M": 15,
    "Q4_K_S": 14,
    "Q4_0": 2,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}


def quantize(src: Path, out: Path, quant: str, *, imatrix: Path | None = None, log: Path | None = None) -> Path:
    """Writes `out`, quantized to `quant` (a name of `QUANTS`), and gives it back.

    `src` should be a 16- or 32-bit GGUF. `imatrix` is a file of `importance`; Q8_0 has no use for one. llama.cpp's own
    account, tensor by tensor, is kept at `log` if given. Raises `EdgeError` if the quantizer fails, if it did not use
    the matrix, or if the disk is too small.
    """
    if quant not in QUANTS:
        raise EdgeError(f"there is no quantization {quant!r} here", f"one of {', '.join(QUANTS)}")
    check_gguf(src)
    if imatrix is not None:
        read_imatrix(imatrix)
    out.parent.mkdir(parents=True, exist_ok=True)
    free, need = shutil.disk_usage(out.parent).free, src.stat().st_size
    if free < need:
        raise EdgeError(f"{out.parent} has {free:,} bytes left, quantizing may take {need:,}", "free some space")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantize-") as work:
        made, account = Path(work) / "model.gguf", Path(work) / "log"
        child.run(
            "workbench.edge.quantizer",
            [str(src), str(made), quant, *([str(imatrix)] if imatrix else [])],
            log=account,
            what=f"quantizing {src.name} to {quant}",
            hint="the source must be a whole 16-bit GGUF; make it again with to_gguf",
        )
        if imatrix is not None:
            _demand_imatrix(account.read_text(errors="replace"))
        open_gguf(made)
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(account, log)
        made.replace(out)
    return out


def _demand_imatrix(account: str) -> None:
    missed = re.findall(r"did not find weights for (\S+)", account)
    missed = [name for name in missed if name.startswith("blk.")]
    if "have importance matrix data" not in account or missed:
        raise EdgeError(
            f"llama.cpp did not use the importance matrix{f' for {missed[0]} and others' if missed else ''}",
            "it must come from the very model that is quantized",
        )


class _Imatrix(ctypes.Structure):
    """llama.h, `struct llama_model_imatrix_data`: one tensor; an array of them ends with a null name."""

    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t))


class _Params(ctypes.Structure):
    """llama.h, `struct llama_model_quantize_params`."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int),
        ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int),
        ("flags", ctypes.c_bool * 6),
        ("imatrix", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("tt_overrides", ctypes.c_void_p),
        ("prune_layers", ctypes.c_void_p),
    )


def _set_imatrix(params: Any, path: Path) -> Any:
    """Points `params` at the matrix in `path`. Gives what must stay alive until the quantizer is done."""
    size = type(params).__basicsize__
    inside = _Params.from_address(id(params) + size - ctypes.sizeof(_Params))  # the last member of the Python object
    if (inside.nthread, inside.ftype) != (params.nthread, params.ftype) or inside.imatrix is not None:
        raise SystemExit("cyllama's quantize parameters are not laid out as in llama.h; is it the pinned version?")
    means = read_imatrix(path)
    table = (_Imatrix * (len(means) + 1))()
    for row, (name, mean) in zip(table, means.items(), strict=False):
        row.name = name.encode()
        row.data = (ctypes.c_float * len(mean))(*mean.tolist())
        row.size = len(mean)
    inside.imatrix = ctypes.cast(table, ctypes.c_void_p).value
    return table


def main(src: str, out: str, quant: str, imatrix: str | None = None) -> None:
    llama_cpp = import_module("cyllama.llama.llama_cpp")

    params = llama_cpp.LlamaModelQuantizeParams()
    params.ftype = QUANTS[quant]
    params.nthread = cores()
    held = _set_imatrix(params, Path(imatrix)) if imatrix else None
    llama_cpp.model_quantize(src, out, params)
    del held


if __name__ == "__main__":
    child.settle()
    main(*sys.argv[1:])
