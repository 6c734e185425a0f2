"""The completion-only loss, alone or blended with a divergence from a teacher's distributions, and the dev score that needs no
generating.

The language-model head is applied only where there is a label: with a vocabulary of 49,152 and a hidden size of 576 it
is a fifth of a 135M student's work at each position, and what it says at the prompt's is never looked at.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.students.batches import IGNORE, Batch, Encoded, by_length, collate
from workbench.students.divergence import NONE, Blend, Classes, Soft, blended, divergence, of_teacher
from workbench.students.packed import states

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


def completion_loss(
    model: torch.nn.Module, batch: Batch, balance: float = 0.0, blend: Blend | None = None, share: float = 1.0
) -> torch.Tensor:
    """Mean negative log-likelihood of the labelled tokens, a scalar in nats. `balance`: 0 where each token counts alike, 1
    where each row does, however long its answer; between them a token counts (tokens of its row) ** -balance. `blend`: how
    the batch's `soft` targets go in. `share`: of a step's whole weight, what this batch has; it scales the mean."""
    plain = causal(model)
    hidden_L_H, targets_L, row_L, _ = labelled(plain, batch)
    weights_L = torch.bincount(row_L)[row_L].to(torch.promote_types(hidden_L_H.dtype, torch.float32)) ** -balance
    weights_L *= share / weights_L.sum()
    head: Any = plain.get_output_embeddings()  # type: ignore[no-untyped-call]
    soft = batch.soft if blend is not None else None
    if _own_head(plain) or type(head) is not torch.nn.Linear or head.bias is not None or head.weight.requires_grad:
        logits_L_V = logits(plain, hidden_L_H)
        if soft is not None and blend is not None:
            return weights_L @ blended(logits_L_V, targets_L, soft, blend)
        return weights_L @ functional.cross_entropy(logits_L_V, targets_L, reduction="none")
    loss: torch.Tensor = _FrozenHeadLoss.apply(hidden_L_H, head.weight, targets_L, weights_L, soft, blend)
    return loss


class _FrozenHeadLoss(torch.autograd.Function):
    """Weighted loss under a head that is not trained: its gradient is made in the forward pass, a slice at a time, and no
    logits are kept (Hsu et al. 2024, Liger Kernel). A divergence costs one more pass over the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_L_H: torch.Tensor,
        head_V_H: torch.Tensor,
        targets_L: torch.Tensor,
        weights_L: torch.Tensor,
        soft: Soft | None,
        blend: Blend | None,
    ) -> torch.Tensor:
        grad_L_H = torch.empty_like(hidden_L_H)
        loss = weights_L.new_zeros(())
        for at in range(0, len(targets_L), _SLICE):
            part = slice(at, at + _SLICE)
            wanted_L_1 = targets_L[part, None]
            scores_L_V = (hidden_L_H[part] @ head_V_H.T).to(weights_L.dtype)
            scores_L_V -= scores_L_V.logsumexp(-1, keepdim=True)
            hard_L, share_L = -scores_L_V.gather(1, wanted_L_1)[:, 0], torch.ones_like(weights_L[part])
            if soft is None or blend is None:
                loss += weights_L[part] @ hard_L
                scores_L_V.exp_()
            else:
                far_L, share_L = _pulled(scores_L_V, soft.part(part), blend)
                loss += weights_L[part] @ (share_L * hard_L + far_L)
            scores_L_V.scatter_add_(1, wanted_L_1, -share_L[:, None])
            torch.mm(scores_L_V.to(head_V_H.dtype), head_V_H, out=grad_L_H[part])
        ctx.save_for_backward(grad_L_H.mul_(weights_L[:, None]))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None]:
        (grad_L_H,) = ctx.saved_tensors
        return grad_L_H * grad, None, None, None, None, None


def _pulled(logprobs_L_V: torch.Tensor, soft: Soft, blend: Blend) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted divergence of each position (L,), and what is left there for the cross-entropy, 0 to 1 (L,).

    In the place of the log-probabilities it leaves the gradient of both by the logits, but for the cross-entropy's -1 at the
    target: with q the student's share of a token and g the gradient by the log-share of its class, it is g at a kept token, and
    in the tail g * q / (the tail's share), for the g of all classes sum to nothing.
    """
    pull_L, rest_L = (share_L.to(logprobs_L_V.dtype) for share_L in soft.shares_L(blend.weight))
    rows_N, slots_N = (soft.ids_L_K != NONE).nonzero(as_tuple=True)
    ids_N = soft.ids_L_K[rows_N, slots_N]
    teacher = of_teacher(soft._replace(logprobs_L_K=soft.logprobs_L_K.to(logprobs_L_V.dtype)), logprobs_L_V.shape[1])
    logs_L_C = torch.zeros_like(teacher.logs_L_C)
    logs_L_C[rows_N, slots_N] = logprobs_L_V[rows_N, ids_N]
    logprobs_L_V.exp_()
    kept_N = logprobs_L_V[rows_N, ids_N]
    logprobs_L_V[rows_N, ids_N] = 0
    tail_L = logprobs_L_V.sum(1).clamp(min=torch.finfo(logprobs_L_V.dtype).tiny)
    logs_L_C[:, -1] = tail_L.log()
    with torch.enable_grad():
        leaf_L_C = logs_L_C.requires_grad_()
        far_L = blend.temperature**2 * divergence(teacher, Classes(leaf_L_C, teacher.alive_L_C), blend)
        (by_L_C,) = torch.autograd.grad(far_L @ pull_L, leaf_L_C)
    logprobs_L_V.mul_((rest_L + by_L_C[:, -1] / tail_L)[:, None])
    logprobs_L_V[rows_N, ids_N] = rest_L[rows_N] * kept_N + by_L_C[rows_N, slots_N]
    return (pull_L * far_L).detach(), rest_L


@torch.no_grad()
def dev_score(model: torch.nn.Module, rows: Sequence[Encoded], *, pad: int, tokens: int) -> DevScore:
    """Teacher-forced exact match and loss over `rows`, in batches of `tokens`; leaves the model's mode as it was.

    A row is exact if the argmax is the target at each scored position: as long as all tokens before were right, greedy
    decoding sees this very prefix, so this is greedy decoding's exact match. Two differences remain: the same text in
    other tokens counts as wrong here (a student that learned words in pieces writes it now and then), and a decoder bound to a
    grammar can only do better.

    Where text that is not scored comes first (a rationale), what follows is scored as if the student had written the dev
    row's own: that is not greedy decoding, and more than the student will reach. It serves to compare checkpoints; what ships
    is chosen by the dev scores of the exported files, which write their own.
    """
    training, plain = model.training, causal(model)
    model.eval()
    device = next(plain.parameters()).device
    exact, loss, count = 0, 0.0, 0
    for chosen in by_length([len(row.ids) for row in rows], tokens):
        batch = collate([rows[row] for row in chosen], pad).to(device)
        hidden_L_H, targets_L, row_L, scored_L = labelled(plain, batch)
        wrong_B = torch.zeros(len(chosen), dtype=torch.bool, device=device)
        for at in range(0, len(targets_L), _SLICE):
            part = slice(at, at + _SLICE)
            logits_L_V = logits(plain, hidden_L_H[part])
            loss += functional.cross_entropy(logits_L_V, targets_L[part], reduction="sum").item()
            missed_L = (logits_L_V.argmax(-1) != targets_L[part]) & scored_L[part]
            wrong_B[row_L[part][missed_L]] = True
        exact += int((~wrong_B).sum())
        count += len(targets_L)
    model.train(training)
    return DevScore(exact / max(1, len(rows)), loss / max(1, count))


def labelled(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """At the L labelled tokens: what predicts them (L, H), targets (L,), their rows (L,), whether scored (L,)."""
    # Where the head is the model's own, H is the vocabulary.
    state_N_H = states(model if _own_head(model) else model.base_model, batch.ids_B_T, batch.mask_B_T)
    real_B_T = batch.mask_B_T.bool()
    labels_N = batch.labels_B_T[real_B_T]
    labelled_L = (labels_N != IGNORE).nonzero()[:, 0]  # never a row's first token: a prompt stands before an answer
    row_N, scored_N = real_B_T.nonzero()[:, 0], batch.scored_B_T[real_B_T]
    return state_N_H[labelled_L - 1], labels_N[labelled_L], row_N[labelled_L], scored_N[labelled_L]


def _own_head(model: PreTrainedModel) -> bool:
    """Whether logits are more than one product, so that only the whole model can compute them."""
    return any(getattr(model.config, name, None) not in (None, 1.0) for name in _SCALED)


def logits(model: PreTrainedModel, state_N_H: torch.Tensor) -> torch.Tensor:
    """(N, V) in fp32."""
    if _own_head(model):
        return state_N_H.float()
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    logits_N_V: torch.Tensor = head(state_N_H).float()
    return logits_N_V
