"""The edge: everything between merged weights and a file that runs on a device. The only home of llama.cpp and gguf.

    merged HF folder ──to_gguf──► bf16 GGUF ──quantize──► Q8_0 … Q4_0 GGUF ──write_expert──► expert/
            └────────importance────► imatrix ──┘                 └──LlamaServer──► an OpenAI API on 127.0.0.1

    convert     to_gguf: llama.cpp's own converter, the tokenizer taken over from the GGUF the base model came from
    imatrix     importance: which input channels the task's own rows use, as a llama.cpp importance matrix;
                weight_error: what a quantization did to the weights
    quantizer   QUANTS, quantize: llama.cpp's own quantizer
    runtime     LlamaServer: llama.cpp's own server in a child process that cannot outlive its parent
    parity      rendering_ids: the token ids that the runtime really feeds for a chat
    expert      write_expert: model.gguf, schema.json, grammar.gbnf and Modelfile in one folder

Verbs take paths and give paths. Files are written under a temporary name and renamed. Native code runs in child
processes, so that a crash or its log noise cannot reach the run; what it said last is in the `EdgeError`.

Not done here: judging. No function in this package knows whether a model answers well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.edge.convert import to_gguf
    from workbench.edge.expert import write_expert
    from workbench.edge.imatrix import importance, weight_error
    from workbench.edge.parity import rendering_ids
    from workbench.edge.quantizer import QUANTS, quantize
    from workbench.edge.runtime import LlamaServer

__all__ = [
    "QUANTS",
    "LlamaServer",
    "importance",
    "quantize",
    "rendering_ids",
    "to_gguf",
    "weight_error",
    "write_expert",
]

_HOME = {
    "QUANTS": "quantizer",
    "LlamaServer": "runtime",
    "importance": "imatrix",
    "quantize": "quantizer",
    "rendering_ids": "parity",
    "to_gguf": "convert",
    "weight_error": "imatrix",
    "write_expert": "expert",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
