"""Rows of different lengths through a model without their padding: all tokens stand in one line, and only attention sees rows.

Where rows are short, padding costs a quarter of a training step; attention over the padded rows is a tenth of it. A model that
cannot be packed (recurrent layers, a window, attention of its own) reads padded rows as ever.

Shapes: B rows of up to T tokens, N tokens of all rows without padding, K key heads, G query heads a key head, D size of a
head, H hidden size.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from workbench.students.attention import looks_at_all

log = logging.getLogger(__name__)
NAME = "workbench_packed"
SAME = 0.99  # cosine of what the two ways make of a token; bf16 rounds the two in another order


class _Layout(NamedTuple):
    """Where the N tokens stand in the B * T places of the padded rows, and the causal mask (T, T), -inf above the diagonal."""

    places_N: torch.Tensor
    rows: int
    longest: int
    mask_T_T: torch.Tensor


_LAYOUT: ContextVar[_Layout] = ContextVar("layout")  # transformers hands nothing of ours down to its attention


def pack(model: PreTrainedModel) -> bool:
    """From now on the model reads packed rows, if that gives what padded ones give: two rows are read in both ways."""
    dropout = any(getattr(model.config, name, 0.0) for name in ("attention_dropout", "attn_pdrop"))
    if dropout or not looks_at_all(model) or not getattr(model, "_supports_attention_backend", False):
        return False
    ids_B_T = torch.tensor([[5, 7, 11, 13, 17], [19, 23, 29, 0, 0]], device=model.device)
    mask_B_T = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=model.device)
    training, before = model.training, model.config._attn_implementation
    model.train(False)
    same = False
    try:
        with torch.no_grad():
            padded_N_H = states(model.base_model, ids_B_T, mask_B_T)
            model.set_attn_implementation(NAME)
            packed_N_H = states(model.base_model, ids_B_T, mask_B_T)
        same = bool(functional.cosine_similarity(padded_N_H.float(), packed_N_H.float()).min() > SAME)
    except (RuntimeError, TypeError, ValueError) as error:  # heads of another shape, arguments of another kind
        log.info("%s reads padded rows: %s", model.config.model_type, error)
    finally:
        if not same:
            model.set_attn_implementation(before)
        model.train(training)
    return same


def is_packed(model: PreTrainedModel) -> bool:
    return getattr(model.config, "_attn_implementation", "") == NAME


def states(model: Any, ids_B_T: torch.Tensor, mask_B_T: torch.Tensor) -> torch.Tensor:
    """What `model` (without its head, or with it) makes of each token that is no padding: (N, H), row after row. Padding
    stands at the right."""
    rows, longest = ids_B_T.shape
    places_N = mask_B_T.flatten().nonzero()[:, 0]
    if not is_packed(model):
        told: Any = model(input_ids=ids_B_T, attention_mask=mask_B_T, use_cache=False)
        return _told(told).flatten(0, 1)[places_N]
    dtype = model.get_input_embeddings().weight.dtype
    mask_T_T = torch.full((longest, longest), float("-inf"), dtype=dtype, device=ids_B_T.device).triu(1)
    with _laid_out(_Layout(places_N, rows, longest, mask_T_T)):
        told = model(
            input_ids=ids_B_T.flatten()[places_N][None], position_ids=(places_N % longest)[None], use_cache=False
        )
    return _told(told)[0]


def _told(output: Any) -> torch.Tensor:
    found: torch.Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found


@contextmanager
def _laid_out(layout: _Layout) -> Iterator[None]:
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention seam: query (1, K*G, N, D), key and value (1, K, N, D); gives (1, N, K*G, D).

    A row's padding comes after its tokens, so that under a causal mask no token looks at it.
    """
    layout = _LAYOUT.get()
    rows, longest = layout.rows, layout.longest
    _, heads, _, size = query.shape
    keys = key.shape[1]
    query, key, value = (_padded(tensor, layout) for tensor in (query, key, value))
    if query.is_cpu:  # the fused product's backward is slow in bf16
        query_BK_GT_D = query.reshape(rows * keys, heads // keys * longest, size)
        key_BK_T_D, value_BK_T_D = (tensor.reshape(rows * keys, longest, size) for tensor in (key, value))
        mask_GT_T = layout.mask_T_T.repeat(heads // keys, 1)
        scores_BK_GT_T = torch.baddbmm(mask_GT_T, query_BK_GT_D, key_BK_T_D.transpose(1, 2), alpha=scaling)
        mixed = scores_BK_GT_T.softmax(-1) @ value_BK_T_D
    else:
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=heads != keys
        )
    mixed_BT_H_D = mixed.view(rows, heads, longest, size).transpose(1, 2).reshape(rows * longest, heads, size)
    return mixed_BT_H_D.index_select(0, layout.places_N)[None], None


def _padded(tensor: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """(1, heads, N, D) -> (B, heads, T, D), zeros where nothing stands."""
    _, heads, _, size = tensor.shape
    room = tensor.new_zeros(layout.rows * layout.longest, heads, size)
    filled = room.index_copy(0, layout.places_N, tensor[0].transpose(0, 1))
    return filled.view(layout.rows, layout.longest, heads, size).transpose(1, 2)


AttentionInterface.register(NAME, _attend)
