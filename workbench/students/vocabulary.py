"""A vocabulary trimmed to what some texts need: the rows of the embedding are a fifth of a 135M student, and most of them are
for words that a narrow task never meets.

Byte-level BPE starts from the bytes of a word and applies the first merge in the list that fits, again and again. Text in
scope is tokenized as before because of this:

    A word of the texts takes certain merges. All of them are kept, in their order. At each step the first that fit among
    all merges was one of these, so it is the first among fewer merges, too.

How a token came about is seen by merging it alone: what happened between its two ends had nothing to do with its
neighbours, or it would have been merged with them. Text that is not in scope falls apart into smaller pieces, at worst bytes.

Shapes: V tokens, H hidden size.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers

from workbench.errors import StudentError
from workbench.models import ORIGIN
from workbench.students.folders import new_folder, read_config, read_tensors, write_json, write_model
from workbench.students.load import load_tokenizer
from workbench.students.rendering import UNTRIMMED

COMMON = 4000  # of a tokenizer's first merges, which stay for words that nobody saw
ROWS = 32  # tokens are a multiple of it: matrix units, and llama.cpp's repacked formats, take rows in groups
# By what a tokenizer makes of this text llama.cpp's converter knows its pre-tokenizer (convert_hf_to_gguf, get_vocab_base_pre).
CHECK_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
    "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? "
    "'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
_HEADS = ("model.embed_tokens.weight", "lm_head.weight")  # with a row a token


def trimmed(base: Path, out: Path, texts: Iterable[str], *, common: int = 0) -> Path:
    """Writes the folder `out` and gives it back: `base` without the tokens that `texts` do not need.

    Kept are the bytes, special and added tokens, what `texts` are tokenized into, and all merges on the way there; the
    parent's first `common` merges, the pieces most frequent in its own language, for text nobody saw yet; and some more of
    these up to a multiple of 32 tokens. Ids are dense anew, in the old order. `texts` are rendered prompts and completions,
    each alone, as they are encoded for training. A folder already there is replaced. Raises StudentError: not a byte-level
    BPE, an embedding of another name or with fewer rows than tokens, no texts.
    """
    config, tokenizer, scope = read_config(base), load_tokenizer(base), list(texts)
    if not scope:
        raise StudentError("there are no texts to trim the vocabulary to", "give the task's prompts and answers")
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if not is_byte_level(spec):
        raise StudentError(
            f"the vocabulary of {base.name} cannot be trimmed: its tokenizer is not a byte-level BPE with merges",
            "leave its vocabulary as it is; those of Llama 3, Qwen and SmolLM can be trimmed",
        )
    seen = {token for row in tokenizer(scope, add_special_tokens=False)["input_ids"] for token in row}
    told = {"text": CHECK_TEXT, "ids": tokenizer.encode(CHECK_TEXT)}
    settings = [config, _settings(base / "generation_config.json")]
    named = {int(token) for token in tokenizer.all_special_ids} | {i for said in settings for i in _ids(said)}
    old_V = kept(spec, seen | named, common)
    new = {old: place for place, old in enumerate(old_V)}
    tensors = _cut(base, read_tensors(base), old_V)
    with new_folder(out) as folder:
        if (base / ORIGIN).is_file():
            shutil.copyfile(base / ORIGIN, folder / ORIGIN)
        tokenizer.save_pretrained(folder)
        write_json(folder / "tokenizer.json", _renumbered(spec, new))
        said = _settings(folder / "tokenizer_config.json")
        said.pop("added_tokens_decoder", None)  # tokenizer.json says it
        write_json(folder / "tokenizer_config.json", {UNTRIMMED: told} | said)
        if settings[1]:
            write_json(folder / "generation_config.json", _with_new_ids(settings[1], new))
        write_model(folder, _with_new_ids(config, new) | {"vocab_size": len(old_V)}, tensors)
    return out


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json is that of a byte-level BPE with merges."""
    model = spec["model"]
    pieces = [model.get(name) for name in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")]
    return bool(model.get("merges")) and not any(pieces) and '"ByteLevel"' in json.dumps(spec["pre_tokenizer"])


def kept(spec: Mapping[str, Any], wanted: set[int], common: int, rows: int = ROWS) -> list[int]:
    """The ids that stay, in their order, their number a multiple of `rows`. `spec` is tokenizer.json, `wanted` are those that
    occur or are named somewhere."""
    vocab: dict[str, int] = spec["model"]["vocab"]
    merges = [(left, right) for left, right in spec["model"]["merges"]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    added = {token["id"]: token["content"] for token in spec["added_tokens"]}
    stay = {vocab[byte] for byte in pre_tokenizers.ByteLevel.alphabet() if byte in vocab} | set(added)
    text = {number: token for token, number in vocab.items()}
    for number in wanted & set(text):
        stay.add(number)
        if number not in added:
            stay |= {vocab[piece] for piece in _on_the_way(text[number], ranks)}
    for rank, (left, right) in enumerate(merges):
        if rank >= common and len(stay) % rows == 0:
            break
        stay.add(vocab[left + right])
    return sorted(stay)


def _on_the_way(token: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """What merging the characters of `token` makes: its ancestors and, where it is made by merges at all, itself."""
    pieces, made = list(token), set[str]()
    while True:
        fit = [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not fit:
            return made
        _, at = min(fit)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        made.add(pieces[at])


def _renumbered(spec: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """tokenizer.json with the kept tokens, and the merges of which all three are kept, in their order."""
    added = [token | {"id": new[token["id"]]} for token in spec["added_tokens"]]
    padding = spec.get("padding")
    return spec | {
        "added_tokens": added,
        "padding": padding and padding | {"pad_id": new[padding["pad_id"]]},
        "post_processor": _processor(spec.get("post_processor"), new),
        "model": smaller(spec["model"], new),
    }


def smaller(model: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The model of tokenizer.json with the tokens whose old ids `new` has, under their new ones."""
    vocab = {token: new[old] for token, old in model["vocab"].items() if old in new}
    merges = [[left, right] for left, right in model["merges"] if {left, right, left + right} <= vocab.keys()]
    return {**model, "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])), "merges": merges}


def _processor(node: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new ids: they stand under `ids` (a template) or beside their token (`["</s>", 2]`)."""
    if isinstance(node, dict):
        return {
            key: [new[old] for old in value] if key == "ids" else _processor(value, new) for key, value in node.items()
        }
    if isinstance(node, list):
        if len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], int):
            return [node[0], new[node[1]]]
        return [_processor(value, new) for value in node]
    return node


def _cut(base: Path, tensors: dict[str, torch.Tensor], old_V: list[int]) -> dict[str, torch.Tensor]:
    """The tensors with the rows of `old_V` in embedding and head."""
    table = tensors.get(_HEADS[0])
    if table is None or max(old_V) >= len(table):
        raise StudentError(
            f"the vocabulary of {base.name} cannot be trimmed: "
            + ("it has no `model.embed_tokens`" if table is None else f"{max(old_V)} has no row in its embedding"),
            "trim a Llama, Mistral or Qwen2",
        )
    rows_V = torch.tensor(old_V)
    return tensors | {name: tensors[name].index_select(0, rows_V) for name in _HEADS if name in tensors}


def _settings(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _ids(settings: Mapping[str, Any]) -> list[int]:
    """The token ids that config.json or generation_config.json name."""
    named = [value for key, value in settings.items() if key.endswith("_token_id") and value is not None]
    return [token for value in named for token in (value if isinstance(value, list) else [value])]


def _with_new_ids(settings: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """An id without a token is none any more."""

    def renamed(value: Any) -> Any:
        return [new[old] for old in value if old in new] if isinstance(value, list) else new.get(value)

    return {key: renamed(value) if key.endswith("_token_id") else value for key, value in settings.items()}
