"""Attention of rows whose prompts begin like others': keys and values of such a beginning are kept once, for all its rows.

Each row looks at its prefix and at its own tokens apart, and what it finds is mixed by their weights, as one softmax over both
would do (Hydragen, Juravsky et al. 2024). Rows with different prefixes, and with none, stand in one batch.

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
    query_B_K_GT_D = query.reshape(rows, keys, heads // keys * new, size)
    mask_B_1_GT_S = looked_at.mask_B_T_S.repeat(1, heads // keys, 1)[:, None]
    bias_B_1_GT_S = query.new_zeros(mask_B_1_GT_S.shape).masked_fill(~mask_B_1_GT_S, LOW)
    own = _looked(query_B_K_GT_D, key, value, scaling, bias_B_1_GT_S)
    shared = _Part(torch.zeros_like(own.found), torch.full_like(own.weight, -torch.inf))
    for prefix, lines in looked_at.groups:
        key_K_P_D, value_K_P_D = prefix.layers[layer]
        query_1_K_bGT_D = query_B_K_GT_D[lines].transpose(0, 1).reshape(1, keys, -1, size)
        part = _looked(query_1_K_bGT_D, key_K_P_D[None], value_K_P_D[None], scaling)
        shared.found[lines] = part.found.view(keys, -1, heads // keys * new, size).transpose(0, 1)
        shared.weight[lines] = part.weight.view(keys, -1, heads // keys * new).transpose(0, 1)
    share_B_K_GT_1 = (shared.weight - own.weight).sigmoid()[..., None].to(query.dtype)
    mixed_B_K_GT_D = torch.lerp(own.found, shared.found, share_B_K_GT_1)
    return mixed_B_K_GT_D.reshape(rows, heads, new, size).transpose(1, 2).contiguous(), None


class _Part(NamedTuple):
    """What was found by looking at a part of the text (B, K, GT, D), and the logarithm of its weight in the softmax over all
    of it (B, K, GT), fp32."""

    found: torch.Tensor
    weight: torch.Tensor


def _looked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, bias: torch.Tensor | None = None
) -> _Part:
    """query (B, K, GT, D), key and value (B, K, S, D), `bias` on the scores (B, 1, GT, S)."""
    return (_fused if query.is_cpu else _step_by_step)(query, key, value, scaling, bias)


def _fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, bias: torch.Tensor | None
) -> _Part:
    """No score is written down; torch tells the weight on a CPU only."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return _Part(*attention(query, key, value, attn_mask=bias, scale=scaling))


def _step_by_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, bias: torch.Tensor | None
) -> _Part:
    scores = (query * scaling @ key.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    return _Part(scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1))


AttentionInterface.register(NAME, _attend)
