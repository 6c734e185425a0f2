"""Rows -> token ids -> batches of about equal cost, the same ones for the same (seed, epoch).

Prompt and completion are encoded apart and joined, as the runtime does it: it reads the rendered prompt and then
writes token by token, so no merge ever crosses the border. Labels are the completion's tokens, its end-of-turn
included, and IGNORE elsewhere.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from workbench.students.rendering import Rendering
from workbench.students.settings import Pair

IGNORE = -100
_JITTER = 6.0  # tokens; rows of nearly the same length meet other neighbours in each epoch


class Encoded(NamedTuple):
    """One row as ids. `prompt` tokens come first and are not trained; `scored` completion tokens count on dev."""

    ids: list[int]
    prompt: int
    scored: int


class Batch(NamedTuple):
    """Padded on the right. All are (B, T): ids and labels int64, mask int64 of 0/1, scored bool."""

    ids_B_T: torch.Tensor
    mask_B_T: torch.Tensor
    labels_B_T: torch.Tensor
    scored_B_T: torch.Tensor

    @property
    def tokens(self) -> int:
        """Without padding."""
        return int(self.mask_B_T.sum())

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in self))


def encode(tokenizer: PreTrainedTokenizerBase, rendering: Rendering, pairs: Sequence[Pair]) -> list[Encoded]:
    """Token ids of each pair, in order. A token counts as scored if it starts inside the scored characters."""
    if not pairs:
        return []
    prompts = tokenizer([rendering.prompt(pair.prompt) for pair in pairs], add_special_tokens=False)["input_ids"]
    answers = tokenizer(
        [rendering.completion(pair.completion) for pair in pairs], add_special_tokens=False, return_offsets_mapping=True
    )
    rows = []
    for pair, prompt, answer, offsets in zip(
        pairs, prompts, answers["input_ids"], answers["offset_mapping"], strict=True
    ):
        limit = pair.scored
        scored = len(answer) if limit is None else sum(start < limit for start, _ in offsets)
        rows.append(Encoded(list(prompt) + list(answer), len(prompt), scored))
    return rows


def batches(lengths: Sequence[int], tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers in batches of at most `tokens` with padding (a longer row stands alone), each row once.

    Neighbours in length share a batch, so that little is padded; the order of the batches is shuffled.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = sorted(range(len(lengths)), key=lambda row: lengths[row] + rng.random() * _JITTER)
    found: list[list[int]] = []
    widest = 0
    for row in order:
        widest = max(widest, lengths[row])
        if found and widest * (len(found[-1]) + 1) <= tokens:
            found[-1].append(row)
        else:
            found.append([row])
            widest = lengths[row]
    rng.shuffle(found)
    return found


def plan(lengths: Sequence[int], tokens: int, seed: int, epochs: float) -> list[tuple[float, list[int]]]:
    """The batches of the whole run, each with the epochs that are done after it; a broken epoch at the end is cut."""
    steps: list[tuple[float, list[int]]] = []
    for epoch in range(math.ceil(epochs)):
        found = batches(lengths, tokens, seed, epoch)
        kept = math.ceil(len(found) * min(1.0, epochs - epoch))
        steps += [(epoch + (turn + 1) / len(found), batch) for turn, batch in enumerate(found[:kept])]
    return steps


def collate(rows: Sequence[Encoded], pad: int) -> Batch:
    """Rows padded with `pad` to the longest of them."""
    shape = (len(rows), max(len(row.ids) for row in rows))
    ids_B_T = torch.full(shape, pad)
    mask_B_T = torch.zeros(shape, dtype=torch.long)
    labels_B_T = torch.full(shape, IGNORE)
    scored_B_T = torch.zeros(shape, dtype=torch.bool)
    for turn, row in enumerate(rows):
        ids = torch.tensor(row.ids)
        ids_B_T[turn, : len(ids)] = ids
        mask_B_T[turn, : len(ids)] = 1
        labels_B_T[turn, row.prompt : len(ids)] = ids[row.prompt :]
        scored_B_T[turn, row.prompt : row.prompt + row.scored] = True
    return Batch(ids_B_T, mask_B_T, labels_B_T, scored_B_T)
