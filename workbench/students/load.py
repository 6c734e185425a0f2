"""A base model on disk as a trainable folder, and that folder as a model and a tokenizer.

    prepare_base    GGUF file | Hugging Face folder | hub id  ->  Hugging Face folder
    load_tokenizer  folder -> tokenizer whose padding is never its end-of-turn
    load_model      folder -> model, plain or in NF4, on the GPU where there is one

A GGUF is unpacked to bf16: what its quantization lost stays lost. Apple's MPS is not used: bitsandbytes has no
kernels for it.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from bitsandbytes.nn.modules import Linear4bit
from safetensors import SafetensorError
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workbench.digest import digest
from workbench.errors import StudentError
from workbench.machine import multiplies_bf16, temporary_folder
from workbench.students.rendering import rendering_for

FORMAT = 1  # of the prepared folder; a change makes all of them anew
_PADS = ("<|endoftext|>", "<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<unk>")
_DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")  # llama.cpp splits each \p{N} off for these


def prepare_base(source: Path, cache: Path, sha256: str | None = None) -> Path:
    """A Hugging Face folder for `source`: a GGUF file, or such a folder (passed through).

    A GGUF is unpacked once into `cache/hf-<16 hex>`; the name is made from `sha256` if given, else from the file's
    name, size and time. Raises StudentError if there is no such file or folder, or if it cannot be unpacked.
    """
    path = source.expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise StudentError(f"{path} has no config.json", "name a GGUF file or a folder saved by transformers")
        return path
    if not path.is_file():
        raise StudentError(f"there is no base model at {path}", "`workbench models list` shows what can be fetched")
    stat = path.stat()
    identity = [FORMAT, transformers.__version__, sha256 or [path.name, stat.st_size, stat.st_mtime_ns]]
    folder = cache / f"hf-{digest(identity)[:16]}"
    if folder.exists():
        return folder
    with temporary_folder(".hf-", cache) as temporary:
        _unpack(path, temporary)
        if not folder.exists():  # another run may have been faster
            temporary.replace(folder)
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer; its eos is the rendering's end-of-turn, and its pad token is neither eos nor bos.

    A pad that is also the end-of-turn would teach nothing here, but other tools mask pads out of the loss, and the
    end-of-turn with them: a student that never stops. Raises StudentError.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise StudentError(f"cannot load the tokenizer in {folder}: {error}") from error
    if not tokenizer.is_fast:
        raise StudentError(f"{folder.name} has no fast tokenizer", "training needs its tokenizer.json")
    tokenizer.eos_token = rendering_for(folder).end_of_turn
    _separate_pad(tokenizer)
    return tokenizer


def load_model(
    folder: Path,
    *,
    nf4: bool = False,
    dtype: torch.dtype | None = None,
    here: torch.device | None = None,
) -> PreTrainedModel:
    """The model in `dtype` (the device's compute type if None), its linear layers but the head in NF4 if asked for. Raises
    StudentError."""
    device, dtype = here or best_device(), dtype or compute_dtype()
    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    options["attn_implementation"] = "eager" if device.type == "cpu" else "sdpa"  # in bf16 its backward is slow on CPUs
    if nf4:
        options["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        # of several processes each has its own GPU; and where no device is named, transformers takes a GPU
        if torch.cuda.is_available():
            options["device_map"] = {"": torch.cuda.current_device() if device.type == "cuda" else "cpu"}
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise StudentError(f"cannot load the model in {folder}: {error}") from error
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weights for inference, for good:
            # afterwards no gradient flows through them, and training goes on without a word.
            module.support_avx512bf16_for_cpu = False
    loaded: PreTrainedModel = model if nf4 else model.to(device)
    return loaded


def weights_bytes(folder: Path) -> int:
    """Of a folder's weights on the disk: all are bf16."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def parameters(folder: Path) -> int:
    """How many weights it has, however they are stored. Raises StudentError."""
    from workbench.students.folders import read_shapes

    return sum(math.prod(shape) for shape in read_shapes(folder).values())


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """bf16 where the GPU, or else the CPU, multiplies in it; where it would be emulated fp32, which is several times as fast
    (fp16 would need loss scaling)."""
    gpu = torch.cuda.is_available()
    able = torch.cuda.is_bf16_supported(including_emulation=False) if gpu else multiplies_bf16()
    return torch.bfloat16 if able else torch.float32


def _unpack(gguf: Path, out: Path) -> None:
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        # Without dequantize the weights stay packed, and can be neither trained nor saved.
        dense = transformers.GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**where, quantization_config=dense, dtype=torch.bfloat16)
    except (OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:  # it may be cut short
        raise StudentError(
            f"transformers cannot unpack {gguf.name}: {error}",
            "use the model's Hugging Face folder instead of its GGUF",
        ) from error
    _split_digits(tokenizer, gguf)
    _separate_pad(tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _split_digits(tokenizer: Any, gguf: Path) -> None:
    """Make the tokenizer that transformers rebuilt from a GGUF split numbers as llama.cpp does.

    transformers 5.23 reads `tokenizer.ggml.pre` for no BPE but Qwen's: " ½" comes out in other tokens than at run time.
    """
    if _pre_tokenizer(gguf) in _DIGITS_APART and isinstance(
        tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel
    ):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _pre_tokenizer(gguf: Path) -> str:
    """The value of `tokenizer.ggml.pre`: key, uint32 type 8 (string), uint64 length, bytes (GGUF specification, v3)."""
    key = b"tokenizer.ggml.pre" + struct.pack("<I", 8)
    with gguf.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(key)
        if at < 0:
            return ""
        at += len(key)
        (length,) = struct.unpack("<Q", data[at : at + 8])
        return bytes(data[at + 8 : at + 8 + length]).decode("utf-8", "replace")


def _separate_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    taken = {tokenizer.eos_token, tokenizer.bos_token, "<|im_start|>", "<|im_end|>", None}
    if tokenizer.pad_token not in taken:
        return
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    for token in (*_PADS, tokenizer.unk_token, *special):
        if token not in taken and token in tokenizer.get_vocab():
            tokenizer.pad_token = token
            return
    raise StudentError(
        f"{tokenizer.name_or_path}: the tokenizer has no special token to pad with beside its eos",
        "add a pad_token to its tokenizer_config.json",
    )
