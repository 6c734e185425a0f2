"""How far a student's next token is from a teacher's, of which the likeliest tokens are known and not the others.

All other tokens together are one class more, the tail, on both sides: what the teacher gives to tokens that were not kept is
not taken for zero, and the student may share it out among them as it likes. Where all tokens were kept, there is no tail, and
this is the divergence of the whole distributions. Temperature is applied to the classes; the tail is softened as one of them.

Shapes: L positions, K kept tokens, V vocabulary, C = K + 1 classes, the tail's last. Log-probabilities are natural.
Sources: forward KL (Hinton et al. 2015, arXiv:1503.02531); reverse KL (Gu et al. 2024, MiniLLM, arXiv:2306.08543); generalized
Jensen-Shannon (Agarwal et al. 2024, GKD, arXiv:2306.13649); total variation (Wen et al. 2023, arXiv:2307.15190).
"""

from typing import NamedTuple

import torch

from workbench.students.settings import Divergence

NONE = -1  # in the place of a token: nothing was kept there
FLOOR = 1e-9  # of the tail's share: what rounding leaves of it


class Soft(NamedTuple):
    """A teacher's next tokens (L, K), NONE where there is none, and their log-probabilities at temperature 1 (L, K). No token
    stands twice at one position. A position where all are NONE is one that the teacher says nothing of. `alone_L`: where the
    text is not learned (L,), for the student wrote it itself."""

    ids_L_K: torch.Tensor
    logprobs_L_K: torch.Tensor
    alone_L: torch.Tensor

    @classmethod
    def of(cls, ids_L_K: torch.Tensor, logprobs_L_K: torch.Tensor) -> "Soft":
        """Of rows whose text is learned too."""
        return cls(ids_L_K, logprobs_L_K, torch.zeros(len(ids_L_K), dtype=torch.bool, device=ids_L_K.device))

    @property
    def known_L(self) -> torch.Tensor:
        return (self.ids_L_K != NONE).any(1)

    def part(self, of: slice) -> "Soft":
        """Of some of the positions."""
        return Soft(*(tensor[of] for tensor in self))

    def shares_L(self, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        """What the divergence and the text count at each position (L,), 0 to 1."""
        known_L = self.known_L.float()
        pull_L = torch.where(self.alone_L, known_L, weight * known_L)
        return pull_L, torch.where(self.alone_L, 0.0, 1 - pull_L)


class Blend(NamedTuple):
    """The loss is (1 - weight) * cross-entropy + weight * temperature ** 2 * divergence where the teacher says anything, and
    the cross-entropy elsewhere. `beta` is of the generalized Jensen-Shannon divergence: 0 goes to forward, 1 to reverse KL."""

    weight: float
    temperature: float = 1.0
    kind: Divergence = "forward_kl"
    beta: float = 0.5


class Classes(NamedTuple):
    """Log-probabilities (L, C), and which classes there are (L, C)."""

    logs_L_C: torch.Tensor
    alive_L_C: torch.Tensor


def of_teacher(soft: Soft, vocabulary: int) -> Classes:
    """What the kept tokens leave of the mass is the tail's."""
    kept_L_K = soft.ids_L_K != NONE
    logs_L_K = soft.logprobs_L_K.masked_fill(~kept_L_K, -torch.inf)
    tail_L_1 = (1 - logs_L_K.exp().sum(1, keepdim=True)).clamp(min=FLOOR)
    return _with_tail(logs_L_K, tail_L_1.log(), kept_L_K, vocabulary)


def of_student(logprobs_L_V: torch.Tensor, ids_L_K: torch.Tensor) -> Classes:
    """Differentiable."""
    kept_L_K = ids_L_K != NONE
    places_L_K = ids_L_K.clamp(min=0)
    logs_L_K = logprobs_L_V.gather(1, places_L_K)
    gone_L_V = torch.zeros_like(logprobs_L_V, dtype=torch.bool)
    rows_N, slots_N = kept_L_K.nonzero(as_tuple=True)
    gone_L_V[rows_N, places_L_K[rows_N, slots_N]] = True
    tail_L_1 = logprobs_L_V.masked_fill(gone_L_V, -torch.inf).logsumexp(1, keepdim=True)
    return _with_tail(logs_L_K, tail_L_1, kept_L_K, logprobs_L_V.shape[1])


def _with_tail(logs_L_K: torch.Tensor, tail_L_1: torch.Tensor, kept_L_K: torch.Tensor, vocabulary: int) -> Classes:
    there_L_1 = kept_L_K.sum(1, keepdim=True) < vocabulary
    return Classes(torch.cat([logs_L_K, tail_L_1], 1), torch.cat([kept_L_K, there_L_1], 1))


def divergence(teacher: Classes, student: Classes, blend: Blend) -> torch.Tensor:
    """(L,), in nats (total variation: a share), without the square of the temperature. Differentiable in the student's."""
    alive_L_C = teacher.alive_L_C
    logp_L_C, p_L_C = _softened(teacher.logs_L_C, alive_L_C, blend.temperature)
    logq_L_C, q_L_C = _softened(student.logs_L_C, alive_L_C, blend.temperature)
    if blend.kind == "forward_kl":
        return (p_L_C * (logp_L_C - logq_L_C)).sum(1)
    if blend.kind == "reverse_kl":
        return (q_L_C * (logq_L_C - logp_L_C)).sum(1)
    if blend.kind == "tvd":
        return (p_L_C - q_L_C).abs().sum(1) / 2
    mixed_L_C = (blend.beta * p_L_C + (1 - blend.beta) * q_L_C).masked_fill(~alive_L_C, 1.0).log()
    to_p_L = (p_L_C * (logp_L_C - mixed_L_C)).sum(1)
    to_q_L = (q_L_C * (logq_L_C - mixed_L_C)).sum(1)
    return blend.beta * to_p_L + (1 - blend.beta) * to_q_L


def _softened(logs_L_C: torch.Tensor, alive_L_C: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """At the temperature: log-probabilities and probabilities, both 0 where there is no class."""
    warm_L_C = (logs_L_C.masked_fill(~alive_L_C, -torch.inf) / temperature).log_softmax(1)
    found_L_C = warm_L_C.masked_fill(~alive_L_C, 0.0)
    return found_L_C, found_L_C.exp() * alive_L_C


def blended(logits_L_V: torch.Tensor, targets_L: torch.Tensor, soft: Soft, blend: Blend) -> torch.Tensor:
    """The loss of each position (L,), in nats; all of it by autograd. Where the head is frozen, losses.py is faster."""
    logprobs_L_V = logits_L_V.log_softmax(1)
    hard_L = -logprobs_L_V.gather(1, targets_L[:, None])[:, 0]
    pull_L, rest_L = (share_L.to(hard_L.dtype) for share_L in soft.shares_L(blend.weight))
    if not bool(pull_L.any()):
        return rest_L * hard_L
    teacher = of_teacher(soft, logits_L_V.shape[1])
    student = of_student(logprobs_L_V, soft.ids_L_K)
    far_L = blend.temperature**2 * divergence(teacher, student, blend)
    return rest_L * hard_L + pull_L * far_L
