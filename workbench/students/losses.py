"""The completion-only loss, and the dev score that needs no generating.

The language-model head is applied only where there is a label: with a vocabulary of 49,152 and a hidden size of 576 it
is a fifth of a 135M student's work at each position, and what it says at the prompt's is never looked at.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.students.batches import IGNORE, Batch, Encoded, batches, collate

_SLICE = 512  # positions whose logits are held at once while scoring
_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # heads that do more than one product


class DevScore(NamedTuple):
    """`exact`: share of rows, 0 to 1; `loss`: nats per completion token."""

    exact: float
    loss: float


def causal(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT model, its LoRA layers in place; a plain model as it is."""
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    found: PreTrainedModel = inner
    return found


def completion_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens, a scalar in nats."""
    hidden_N_H, targets_N, _, _ = _labelled(causal(model), batch)
    return functional.cross_entropy(_logits(causal(model), hidden_N_H), targets_N)


@torch.no_grad()
def dev_score(model: torch.nn.Module, rows: Sequence[Encoded], *, pad: int, tokens: int) -> DevScore:
    """Teacher-forced exact match and loss over `rows`, in batches of `tokens`; leaves the model's mode as it was.

    A row is exact if the argmax is the target at each scored position: as long as all tokens before were right, greedy
    decoding sees this very prefix, so this is greedy decoding's exact match. Two differences remain: the same text in
    other tokens counts as wrong here, and a decoder bound to a grammar can only do better.
    """
    training, plain = model.training, causal(model)
    model.eval()
    device = next(plain.parameters()).device
    exact, loss, count = 0, 0.0, 0
    for chosen in batches([len(row.ids) for row in rows], tokens, seed=0, epoch=0):
        batch = collate([rows[row] for row in chosen], pad).to(device)
        hidden_N_H, targets_N, row_N, scored_N = _labelled(plain, batch)
        wrong_B = torch.zeros(len(chosen), dtype=torch.bool, device=device)
        for at in range(0, len(targets_N), _SLICE):
            part = slice(at, at + _SLICE)
            logits_N_V = _logits(plain, hidden_N_H[part])
            loss += functional.cross_entropy(logits_N_V, targets_N[part], reduction="sum").item()
            missed_N = (logits_N_V.argmax(-1) != targets_N[part]) & scored_N[part]
            wrong_B[row_N[part][missed_N]] = True
        exact += int((~wrong_B).sum())
        count += len(targets_N)
    model.train(training)
    return DevScore(exact / max(1, len(rows)), loss / max(1, count))


def _labelled(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """At the N labelled positions: what predicts them (N, H), targets (N,), their rows (N,), whether scored (N,)."""
    keep_B_S = batch.labels_B_T[:, 1:] != IGNORE  # S = T - 1
    inputs = {"input_ids": batch.ids_B_T, "attention_mask": batch.mask_B_T, "use_cache": False}
    # Where the head is the model's own, H is the vocabulary.
    state_B_T_H = model(**inputs).logits if _own_head(model) else model.base_model(**inputs).last_hidden_state
    targets_N = batch.labels_B_T[:, 1:][keep_B_S]
    return state_B_T_H[:, :-1][keep_B_S], targets_N, keep_B_S.nonzero()[:, 0], batch.scored_B_T[:, 1:][keep_B_S]


def _own_head(model: PreTrainedModel) -> bool:
    """Whether logits are more than one product, so that only the whole model can compute them."""
    return any(getattr(model.config, name, None) not in (None, 1.0) for name in _SCALED)


def _logits(model: PreTrainedModel, state_N_H: torch.Tensor) -> torch.Tensor:
    """(N, V) in fp32."""
    if _own_head(model):
        return state_N_H.float()
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits_N_V: torch.Tensor = head(state_N_H).float()
    return logits_N_V
