"""Each divergence against the dense one in float64, by value and by gradient; and the fused loss against autograd."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from workbench.students.divergence import NONE, Blend, Soft, blended, divergence, of_student, of_teacher
from workbench.students.losses import _FrozenHeadLoss

L, V, H, K = 7, 23, 5, 6
KINDS = ("forward_kl", "reverse_kl", "jsd", "tvd")


def dense(kind: str, p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """Of whole distributions, as the papers write it."""
    if kind == "forward_kl":
        return (p * (p / q).log()).sum(1)
    if kind == "reverse_kl":
        return (q * (q / p).log()).sum(1)
    if kind == "tvd":
        return (p - q).abs().sum(1) / 2
    mixed = beta * p + (1 - beta) * q
    return beta * (p * (p / mixed).log()).sum(1) + (1 - beta) * (q * (q / mixed).log()).sum(1)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """A teacher's and a student's (L, V)."""
    draw = torch.Generator().manual_seed(5)
    made = torch.randn(2, L, V, generator=draw, dtype=torch.float64) * 2
    return made[0], made[1].requires_grad_()


def kept(teacher: torch.Tensor, k: int) -> Soft:
    top = teacher.log_softmax(1).topk(k)
    return Soft.of(top.indices, top.values)


def collapsed(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Shares of the kept tokens, and of all others together."""
    shares = logits.softmax(1)
    mine = shares.gather(1, ids)
    return torch.cat([mine, 1 - mine.sum(1, keepdim=True)], 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_with_all_tokens_kept_it_is_the_dense_divergence(
    kind: Any, temperature: float, logits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    teacher, student = logits
    blend = Blend(0.3, temperature, kind, 0.2)
    wanted = dense(kind, (teacher / temperature).softmax(1), (student / temperature).softmax(1), blend.beta)
    soft = kept(teacher, V)
    found = divergence(of_teacher(soft, V), of_student(student.log_softmax(1), soft.ids_L_K), blend)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    (by_found,) = torch.autograd.grad(found.sum(), student, retain_graph=True)
    (by_wanted,) = torch.autograd.grad(wanted.sum(), student)
    torch.testing.assert_close(by_found, by_wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_kept_is_one_class_on_both_sides(
    kind: Any, temperature: float, logits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    teacher, student = logits
    blend = Blend(0.3, temperature, kind, 0.7)
    soft = kept(teacher, K)
    p, q = (collapsed(one, soft.ids_L_K) ** (1 / temperature) for one in (teacher, student))
    wanted = dense(kind, p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True), blend.beta)
    found = divergence(of_teacher(soft, V), of_student(student.log_softmax(1), soft.ids_L_K), blend)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    (by_found,) = torch.autograd.grad(found.sum(), student, retain_graph=True)
    (by_wanted,) = torch.autograd.grad(wanted.sum(), student)
    torch.testing.assert_close(by_found, by_wanted, rtol=0, atol=1e-6)
    assert (by_found != 0).all(), "the tail's tokens are pulled too"


def test_a_student_that_is_the_teacher_is_no_distance_away(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    teacher, _ = logits
    soft = kept(teacher, K)
    for kind in KINDS:
        found = divergence(of_teacher(soft, V), of_student(teacher.log_softmax(1), soft.ids_L_K), Blend(1, 1, kind))  # type: ignore[arg-type]
        torch.testing.assert_close(found, torch.zeros(L, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_missing_mass_is_no_zero() -> None:
    """A teacher of which one token is known, half sure: a student that gives it all its mass is further away than one that is
    half sure too."""
    soft = Soft.of(torch.tensor([[3]]), torch.tensor([[0.5]], dtype=torch.float64).log())
    half, whole = torch.zeros(1, V, dtype=torch.float64), torch.zeros(1, V, dtype=torch.float64)
    half[0, 3], whole[0, 3] = torch.tensor(float(V - 1)).log(), 30
    near, far = (
        divergence(of_teacher(soft, V), of_student(one.log_softmax(1), soft.ids_L_K), Blend(1.0))
        for one in (half, whole)
    )
    assert near.item() == pytest.approx(0, abs=1e-9) and far.item() > 1


def ragged(teacher: torch.Tensor) -> Soft:
    """Some positions with fewer tokens, one of nothing."""
    soft = kept(teacher, K)
    ids, logs = soft.ids_L_K.clone(), soft.logprobs_L_K.clone()
    for row in range(L):
        ids[row, K - row % 4 :], logs[row, K - row % 4 :] = NONE, -torch.inf
    ids[3], logs[3] = NONE, -torch.inf
    alone = torch.zeros(L, dtype=torch.bool)
    alone[2:4] = True  # of the student's own: what is known, and what is not
    return Soft(ids, logs, alone)


@pytest.mark.parametrize("weight", [0.4, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_fused_loss_is_autograds(
    kind: Any, temperature: float, weight: float, logits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    draw = torch.Generator().manual_seed(6)
    hidden = torch.randn(L, H, generator=draw, dtype=torch.float64, requires_grad=True)
    head = torch.randn(V, H, generator=draw, dtype=torch.float64)
    targets, weights = torch.arange(L) * 3, torch.rand(L, generator=draw, dtype=torch.float64)
    soft, blend = ragged(logits[0]), Blend(weight, temperature, kind)
    wanted = weights @ blended(hidden @ head.T, targets, soft, blend)
    found = _FrozenHeadLoss.apply(hidden, head, targets, weights, soft, blend)
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-6)
    (by_found,) = torch.autograd.grad(found, hidden)
    (by_wanted,) = torch.autograd.grad(wanted, hidden)
    torch.testing.assert_close(by_found, by_wanted, rtol=0, atol=1e-6)


def test_the_fused_cross_entropy_is_torchs() -> None:
    """Of the text alone, as every `sft` step takes it."""
    draw = torch.Generator().manual_seed(7)
    hidden = torch.randn(L, H, generator=draw, dtype=torch.float64, requires_grad=True)
    head = torch.randn(V, H, generator=draw, dtype=torch.float64)
    targets, weights = torch.arange(L) * 3, torch.rand(L, generator=draw, dtype=torch.float64)
    wanted = weights @ functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    found = _FrozenHeadLoss.apply(hidden, head, targets, weights, None, None)
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-6)
    (by_found,), (by_wanted,) = torch.autograd.grad(found, hidden), torch.autograd.grad(wanted, hidden)
    torch.testing.assert_close(by_found, by_wanted, rtol=0, atol=1e-6)


def test_where_nothing_is_known_it_is_the_cross_entropy(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, student = logits
    nothing = Soft.of(torch.full((L, K), NONE), torch.full((L, K), -torch.inf, dtype=torch.float64))
    targets = torch.arange(L)
    found = blended(student, targets, nothing, Blend(0.9))
    torch.testing.assert_close(found, functional.cross_entropy(student, targets, reduction="none"))


def test_the_square_of_the_temperature(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Hinton's: the gradients of soft targets keep their size beside those of the text."""
    teacher, student = logits
    soft, targets = kept(teacher, V), torch.arange(L)
    found = blended(student, targets, soft, Blend(1.0, 3.0))
    wanted = 9 * dense("forward_kl", (teacher / 3).softmax(1), (student / 3).softmax(1), 0.5)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
