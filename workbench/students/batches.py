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

from workbench.students.divergence import NONE, Soft
from workbench.students.rendering import Rendering
from workbench.students.settings import Pair

IGNORE = -100
ATTENDED = (
    2000  # squared places of attention for each token of a step, at most: it pads, and one long row among many short
)
# ones would cost half as much again as all else does, and gigabytes


class Encoded(NamedTuple):
    """One row as ids. `prompt` tokens come first and are not trained; of the completion's, those in `scored` count on dev.
    `soft` is what a teacher says of each completion token's place; of the student's `own` rows nothing else is learned."""

    ids: list[int]
    prompt: int
    scored: range
    soft: Soft | None = None
    own: bool = False


class Batch(NamedTuple):
    """Padded on the right. All are (B, T): ids and labels int64, mask int64 of 0/1, scored bool. `soft` is of the labelled
    tokens, row by row; None where no row has any."""

    ids_B_T: torch.Tensor
    mask_B_T: torch.Tensor
    labels_B_T: torch.Tensor
    scored_B_T: torch.Tensor
    soft: Soft | None = None

    def to(self, device: torch.device) -> "Batch":
        soft = None if self.soft is None else Soft(*(part.to(device) for part in self.soft))
        ids, mask, labels, scored = (tensor.to(device) for tensor in self[:4])
        return Batch(ids, mask, labels, scored, soft)


def weight(rows: Sequence[Encoded], balance: float) -> float:
    """What they count together in the loss (`losses.completion_loss`)."""
    return math.fsum((len(row.ids) - row.prompt) ** (1 - balance) for row in rows)


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
        first, end = pair.scored
        begin = sum(start < first for start, _ in offsets)
        stop = len(answer) if end is None else sum(start < end for start, _ in offsets)
        rows.append(Encoded(list(prompt) + list(answer), len(prompt), range(begin, stop), own=pair.own))
    return rows


def batches(lengths: Sequence[int], tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers in a random order, in batches of at most `tokens` without padding (a longer row stands alone), each row once;
    fewer where a row is long and others are short. Within a batch they come by length, for processes that share it.

    Neighbours in length would pad less, but make each step one of a kind (the long ones are empty answers, say), which throws a
    student back: docs/results.md, "Rows of a step".
    """
    order = list(range(len(lengths)))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return [sorted(batch, key=lambda row: lengths[row]) for batch in _filled(order, lengths, tokens)]


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """The same for rows that are only read: those that are alike in length share a batch, for the least of padding."""
    return _filled(sorted(range(len(lengths)), key=lambda row: lengths[row]), lengths, tokens)


def _filled(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    found: list[list[int]] = []
    held = longest = 0
    for row in order:
        wide = max(longest, lengths[row])
        if not found or held + lengths[row] > tokens or (len(found[-1]) + 1) * wide**2 > ATTENDED * tokens:
            found.append([])
            held, wide = 0, lengths[row]
        found[-1].append(row)
        held, longest = held + lengths[row], wide
    return found


def plan(
    lengths: Sequence[int], tokens: int, seed: int, epochs: float, limit: int | None = None
) -> list[tuple[float, list[int]]]:
    """The batches of the whole run, at most `limit`, each with the epochs that are done after it; a broken epoch at the end is
    cut."""
    steps: list[tuple[float, list[int]]] = []
    for epoch in range(math.ceil(epochs)):
        if limit is not None and len(steps) >= limit:
            break
        found = batches(lengths, tokens, seed, epoch)
        kept = math.ceil(len(found) * min(1.0, epochs - epoch))
        steps += [(epoch + (turn + 1) / len(found), batch) for turn, batch in enumerate(found[:kept])]
    return steps[:limit]


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
        scored_B_T[turn, row.prompt + row.scored.start : row.prompt + row.scored.stop] = True
    return Batch(ids_B_T, mask_B_T, labels_B_T, scored_B_T, _joined(rows))


def _joined(rows: Sequence[Encoded]) -> Soft | None:
    """What is said of all completion tokens, in the rows' order, as wide as the widest."""
    if not any(row.own or row.soft is not None for row in rows):
        return None
    width = max((row.soft.ids_L_K.shape[1] for row in rows if row.soft is not None), default=1)
    count = sum(len(row.ids) - row.prompt for row in rows)
    ids_L_K, logs_L_K = torch.full((count, width), NONE), torch.full((count, width), -torch.inf)
    alone_L = torch.zeros(count, dtype=torch.bool)
    at = 0
    for row in rows:
        length = len(row.ids) - row.prompt
        alone_L[at : at + length] = row.own
        if row.soft is not None:
            kept = row.soft.ids_L_K.shape[1]
            ids_L_K[at : at + length, :kept], logs_L_K[at : at + length, :kept] = (
                row.soft.ids_L_K,
                row.soft.logprobs_L_K,
            )
        at += length
    return Soft(ids_L_K, logs_L_K, alone_L)
