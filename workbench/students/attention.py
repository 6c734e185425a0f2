"""Attention of rows whose prompts begin like others': keys and values of such a beginning are kept once, for all its rows.

For each row one product with its prefix and one with its own tokens, under one softmax (Hydragen, Juravsky et al. 2024). Rows
with different prefixes, and with none, stand in one batch.

Shapes: B rows, b of them with one prefix, T new tokens of a row, P shared tokens, S a row's own tokens so far (T included),
K key heads, G query heads a key head, D size of a head.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import AttentionInterface, PreTrainedModel

NAME = "workbench_shared_prefix"
LOW = -1e9  # a padded place looks at nothing of its own: a low score, not -inf, keeps its row of the softmax a number


def looks_at_all(model: PreTrainedModel) -> bool:
    """Whether each layer attends to the whole text, by plain softmax."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    windowed = getattr(model.config, "layer_types", None) is None and getattr(model.config, "sliding_window", None)
    return kinds == {"full_attention"} and not windowed and not getattr(model.config, "attn_logit_softcapping", None)


class Prefix(NamedTuple):
    """Tokens, and their keys and values: a pair (K, P, D) a layer."""

    ids: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cut(self, length: int) -> "Prefix":
        return Prefix(self.ids[:length], tuple((k[:, :length], v[:, :length]) for k, v in self.layers))


@dataclass
class _Pass:
    """What the attention of one forward pass looks at."""

    groups: list[tuple[Prefix, torch.Tensor | slice]]  # each prefix and its rows
    mask_B_T_S: torch.Tensor  # True where a row's own token may be looked at


_PASS: ContextVar[_Pass] = ContextVar("pass")  # transformers hands nothing of ours down to its attention


@contextmanager
def looking_at(prefixes: Sequence[Prefix], mask_B_T_S: torch.Tensor) -> Iterator[None]:
    """Within it a forward pass looks at each row's prefix and, where the mask says so, at its own tokens."""
    rows: dict[int, list[int]] = {}
    for row, prefix in enumerate(prefixes):
        rows.setdefault(id(prefix), []).append(row)
    device = mask_B_T_S.device
    groups: list[tuple[Prefix, torch.Tensor | slice]] = [
        (prefixes[found[0]], slice(None) if len(rows) == 1 else torch.tensor(found, device=device))
        for found in rows.values()
        if prefixes[found[0]].ids
    ]
    token = _PASS.set(_Pass(groups, mask_B_T_S))
    try:
        yield
    finally:
        _PASS.reset(token)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention seam: query (B, K*G, T, D), key and value (B, K, S, D); gives (B, T, K*G, D)."""
    looked_at = _PASS.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    rows, heads, new, size = query.shape
    keys = key.shape[1]
    query_B_K_GT_D = (query * scaling).reshape(rows, keys, heads // keys * new, size)
    mask_B_1_GT_S = looked_at.mask_B_T_S.repeat(1, heads // keys, 1)[:, None]
    own_B_K_GT_S = (query_B_K_GT_D @ key.transpose(-1, -2)).float().masked_fill(~mask_B_1_GT_S, LOW)
    longest = max((len(prefix.ids) for prefix, _ in looked_at.groups), default=0)
    shared_B_K_GT_P = own_B_K_GT_S.new_full((rows, keys, query_B_K_GT_D.shape[2], longest), LOW)
    for prefix, lines in looked_at.groups:
        key_K_P_D, _ = prefix.layers[layer]
        query_K_bGT_D = query_B_K_GT_D[lines].transpose(0, 1).reshape(keys, -1, size)
        scores = (
            (query_K_bGT_D @ key_K_P_D.transpose(-1, -2)).float().view(keys, -1, heads // keys * new, len(prefix.ids))
        )
        shared_B_K_GT_P[lines, :, :, : len(prefix.ids)] = scores.transpose(0, 1)
    weights = torch.cat([shared_B_K_GT_P, own_B_K_GT_S], -1).softmax(-1).to(query.dtype)
    shared_B_K_GT_P, own_B_K_GT_S = torch.split(weights, [longest, own_B_K_GT_S.shape[-1]], -1)
    mixed_B_K_GT_D = own_B_K_GT_S @ value
    for prefix, lines in looked_at.groups:
        _, value_K_P_D = prefix.layers[layer]
        weights = shared_B_K_GT_P[lines, :, :, : len(prefix.ids)].transpose(0, 1).reshape(keys, -1, len(prefix.ids))
        found = (weights @ value_K_P_D).view(keys, -1, heads // keys * new, size)
        mixed_B_K_GT_D[lines] += found.transpose(0, 1)
    return mixed_B_K_GT_D.reshape(rows, heads, new, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _attend)
