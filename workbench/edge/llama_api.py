"""llama.cpp's C functions in the library inside xllamacpp, as far as `scorer` needs them: its Python side has a server alone.

The structs are those of the header of the pinned version (llama.cpp, include/llama.h). `functions` reads their defaults back
and demands those of that header, so that another version is refused instead of read wrongly. For child processes: native code.
"""

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_bool, c_float, c_int, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workbench.errors import EdgeError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ModelParams(ctypes.Structure):
    """`struct llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    """`struct llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_FUNCTIONS = {
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c_void_p, (ctypes.c_char_p, ModelParams)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_seq_cp": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_batch_init": (Batch, (c_int32, c_int32, c_int32)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
}


def functions() -> ctypes.CDLL:
    """The library, its functions typed. Raises EdgeError where it is not the one that is expected."""
    path = import_module("xllamacpp.xllamacpp").__file__
    assert path is not None, "it is a file"
    library = ctypes.CDLL(path)
    for name, (gives, takes) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise EdgeError(
                f"xllamacpp does not hand out {name} on this system", "have torch read: --set teacher.engine=torch"
            ) from None
        function.restype, function.argtypes = gives, takes
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    found = (
        (model.n_gpu_layers, model.tensor_split, model.vocab_only, model.use_extra_bufts, model.no_alloc),
        (context.n_ctx, context.n_batch, context.n_ubatch, context.n_seq_max, context.type_k, context.type_v),
        (context.yarn_ext_factor, context.offload_kqv, context.kv_unified, context.samplers, context.ctx_other),
    )
    if found != ((-1, None, False, True, False), (512, 2048, 512, 1, 1, 1), (-1.0, True, False, None, None)):
        raise EdgeError(
            f"xllamacpp's llama.cpp has other defaults than its header: {found}", "is it the pinned version?"
        )
    return library


class Text(Protocol):
    """Tokens, the last `written` ones the completion's, the first `shared` ones those that are kept."""

    @property
    def ids(self) -> Sequence[int]: ...
    @property
    def written(self) -> int: ...
    @property
    def shared(self) -> int: ...


class Reader:
    """A model and a cache of `context` tokens, of which up to `tokens` are read in a pass, in up to `sequences` texts at once.
    Sequence 0 is what they begin with. Raises EdgeError. Nothing is freed: the process is to end with it."""

    def __init__(self, gguf: Path, *, context: int, tokens: int, sequences: int, threads: int) -> None:
        self._api = functions()
        self._api.llama_backend_init()
        self._model = self._api.llama_model_load_from_file(str(gguf).encode(), self._api.llama_model_default_params())
        if not self._model:
            raise EdgeError(f"llama.cpp cannot load {gguf}", "is it a whole GGUF file?")
        params = self._api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max, params.kv_unified = context, tokens, sequences, True
        params.n_threads = params.n_threads_batch = threads
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            raise EdgeError(f"llama.cpp has no room for a context of {context} tokens", "read shorter rows")
        self._memory = self._api.llama_get_memory(self._context)
        self._width = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self._tokens = tokens
        self._batch = self._api.llama_batch_init(tokens, 0, 1)
        self._kept: list[int] = []

    def keep(self, ids: Sequence[int]) -> None:
        """What the next texts begin with; what it has in common with the last is not read again."""
        alike = 0
        while alike < min(len(ids), len(self._kept)) and ids[alike] == self._kept[alike]:
            alike += 1
        if not self._api.llama_memory_seq_rm(self._memory, 0, alike, -1):  # a state that cannot be cut
            self._api.llama_memory_seq_rm(self._memory, 0, -1, -1)
            alike = 0
        for start in range(alike, len(ids), self._tokens):
            self._decode([(ids[place], place, 0, False) for place in range(start, min(start + self._tokens, len(ids)))])
        self._kept = list(ids)

    def read(self, texts: Sequence[Text], k: int) -> Iterator[tuple["NDArray[np.int32]", "NDArray[np.float32]"]]:
        """Of each text the `k` likeliest tokens before each that was written, the likeliest first, and their log-probabilities
        (C, K)."""
        places, at = list[tuple[int, int, int, bool]](), list[list[int]]()
        for sequence, text in enumerate(texts, start=1):
            if text.shared:
                self._api.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
            first, last = len(text.ids) - text.written - 1, len(text.ids) - 2
            at.append([len(places) + place - text.shared for place in range(first, last + 1)])
            places += [
                (text.ids[place], place, sequence, first <= place <= last)
                for place in range(text.shared, len(text.ids))
            ]
        self._decode(places)
        for found in at:
            logits_C_V = np.stack([self._logits(place) for place in found])
            yield _likeliest(logits_C_V, min(k, self._width))
        for sequence in range(1, len(texts) + 1):
            self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _decode(self, places: Sequence[tuple[int, int, int, bool]]) -> None:
        """Tokens with their positions and sequences, and whether the logits after them are wanted."""
        batch = self._batch
        batch.n_tokens = len(places)
        for row, (token, position, sequence, wanted) in enumerate(places):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, wanted
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
        if code := self._api.llama_decode(self._context, batch):
            raise EdgeError(
                f"llama.cpp did not read {len(places)} tokens (llama_decode gave {code})", "read shorter rows"
            )

    def _logits(self, place: int) -> "NDArray[np.float32]":
        found: Any = self._api.llama_get_logits_ith(self._context, place)
        if not found:
            raise EdgeError(f"llama.cpp kept no logits of place {place}", "is it the pinned version?")
        return np.ctypeslib.as_array(found, (self._width,))


def _likeliest(logits_C_V: "NDArray[np.float32]", k: int) -> tuple["NDArray[np.int32]", "NDArray[np.float32]"]:
    top_C_K = np.argpartition(logits_C_V, -k, axis=1)[:, -k:]
    values_C_K = np.take_along_axis(logits_C_V, top_C_K, 1)
    order_C_K = np.argsort(-values_C_K, axis=1, kind="stable")
    most_C_1 = logits_C_V.max(1, keepdims=True)
    norm_C_1 = most_C_1 + np.log(np.exp(logits_C_V - most_C_1).sum(1, keepdims=True, dtype=np.float64))
    logprobs_C_K = np.take_along_axis(values_C_K, order_C_K, 1) - norm_C_1
    return np.take_along_axis(top_C_K, order_C_K, 1).astype(np.int32), logprobs_C_K.astype(np.float32)
