"""Rare words in the pieces that they would fall into had nobody met them: subword regularization (Kudo 2018, arXiv:1804.10959;
Provilkov et al. 2020, BPE-dropout, arXiv:1910.13267), with the splits that will really occur.

A trimmed vocabulary has a token for each word of the rows, so a student would never see a word in pieces until it is in use.
Here a word of few rows is split as a vocabulary trimmed to what more of them hold would split it, and the student learns to
copy what it does not know. Which rows are split is drawn once, for all epochs.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from workbench.errors import StudentError
from workbench.students.batches import Encoded, encode
from workbench.students.rendering import Rendering
from workbench.students.settings import Pair, TrainConfig
from workbench.students.vocabulary import COMMON, is_byte_level, kept, smaller

SELDOM = 2  # different rows that hold a token, or fewer: it might as well not have been met


def encode_resplit(
    tokenizer: PreTrainedTokenizerBase, rendering: Rendering, pairs: Sequence[Pair], config: TrainConfig
) -> list[Encoded]:
    """As `batches.encode`; in the share `resplit` of the rows, drawn by the seed, rare words are in pieces, in prompt and
    answer alike, where the row is not too long then. Raises StudentError where the tokenizer is no byte-level BPE."""
    whole = encode(tokenizer, rendering, pairs)
    if not config.resplit:
        return whole
    split = encode(scarce(tokenizer, whole), rendering, pairs)
    rng = random.Random(config.seed)
    return [
        other if rng.random() < config.resplit and len(other.ids) <= config.max_length else row
        for row, other in zip(whole, split, strict=True)
    ]


def scarce(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoded]) -> PreTrainedTokenizerBase:
    """The tokenizer without the tokens that at most SELDOM different rows hold, that no other token is made of, and that its
    first COMMON merges do not make; the others keep their ids. Raises StudentError."""
    spec = spec_of(tokenizer)
    model: dict[str, Any] = spec["model"]
    # outside the vocabulary they would be given the numbers after its length, whatever they say of themselves
    model["vocab"] |= {token["content"]: token["id"] for token in spec["added_tokens"]}
    met = Counter(token for ids in {tuple(row.ids) for row in rows} for token in set(ids))
    often = {token for token, rows_with in met.items() if rows_with > SELDOM}
    spec["model"] = smaller(model, {number: number for number in kept(spec, often, COMMON, rows=1)})
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(spec)))  # type: ignore[no-untyped-call]


def spec_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """tokenizer.json. Raises StudentError where its words cannot be split so."""
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if not is_byte_level(spec):
        raise StudentError(
            "the student's tokenizer is not a byte-level BPE, so its words are not split", "leave train.resplit out"
        )
    return spec
