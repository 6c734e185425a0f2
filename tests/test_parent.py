"""A larger model that reads along: what it thinks, in the student's ids, and how far hidden states are apart."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small import timer
from torch.nn import functional

from workbench.config import load_config
from workbench.errors import ConfigError, StudentError
from workbench.stages.job import Job, learn
from workbench.students.batches import Batch, collate, encode
from workbench.students.divergence import Blend
from workbench.students.load import load_model, load_tokenizer
from workbench.students.losses import causal, completion_loss
from workbench.students.packed import pack
from workbench.students.parent import Hidden, Parent, apart, fits
from workbench.students.rendering import rendering_for
from workbench.students.settings import DistilConfig, Pair, TrainConfig
from workbench.students.vocabulary import trimmed

ROWS = [
    Pair(prompt="put a timer of 9 minutes", completion=json.dumps([timer(9)])),
    Pair(prompt="hello", completion="[]"),
    Pair(prompt="and another, for the eggs: 12", completion=json.dumps([timer(12, "eggs")])),
]


def batch_of(folder: Path, rows: list[Pair] = ROWS) -> Batch:
    return collate(encode(load_tokenizer(folder), rendering_for(folder), rows), 0)


def test_what_it_thinks_is_what_it_would_say_itself(tiny: Path) -> None:
    """Of a batch with rows of three lengths, at each labelled place."""
    batch = batch_of(tiny)
    soft = Parent(tiny, tiny, Blend(0.5), k=7).thoughts(batch)
    model = load_model(tiny)
    with torch.no_grad():
        logits = model(input_ids=batch.ids_B_T, attention_mask=batch.mask_B_T).logits.float().log_softmax(-1)
    wanted = logits[:, :-1][batch.labels_B_T[:, 1:] != -100].topk(7)
    torch.testing.assert_close(soft.logprobs_L_K, wanted.values, atol=0.2, rtol=0.01)  # packed rows, in bf16
    assert (soft.ids_L_K[:, 0] == wanted.indices[:, 0]).float().mean() > 0.9
    assert not soft.alone_L.any()


@pytest.fixture
def child(tiny: Path, tmp_path: Path) -> Path:
    """The same weights under fewer tokens."""
    rendering = rendering_for(tiny)
    texts = [text for row in ROWS for text in (rendering.prompt(row.prompt), rendering.completion(row.completion))]
    return trimmed(tiny, tmp_path / "child", texts, common=50)


def test_a_child_with_fewer_tokens_is_told_in_its_own(tiny: Path, child: Path) -> None:
    own, theirs = batch_of(child), batch_of(tiny)
    assert own.ids_B_T.shape == theirs.ids_B_T.shape and not torch.equal(own.ids_B_T, theirs.ids_B_T)
    told, plain = (Parent(tiny, of, Blend(0.5), k=5).thoughts(batch) for of, batch in ((child, own), (tiny, theirs)))
    spelled, tokens = load_tokenizer(child), load_tokenizer(tiny)
    for ids, logs, all_ids, all_logs in zip(
        told.ids_L_K.tolist(),
        told.logprobs_L_K.tolist(),
        plain.ids_L_K.tolist(),
        plain.logprobs_L_K.tolist(),
        strict=True,
    ):
        said = dict(zip(spelled.convert_ids_to_tokens(ids), logs, strict=True))
        for token, log in zip(tokens.convert_ids_to_tokens(all_ids), all_logs, strict=True):
            assert token in said or token not in spelled.get_vocab()
            assert said.get(token, log) == pytest.approx(log, abs=0.02)


def test_one_that_lacks_a_token_is_refused(tiny: Path, child: Path) -> None:
    with pytest.raises(StudentError, match=r"writes \d+ tokens that .* does not have"):
        Parent(child, tiny, Blend(0.5), k=5)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_hidden_states_that_are_the_same_are_no_distance_apart(
    kind: Any, packed: bool, tiny: Path, child: Path
) -> None:
    batch, model = batch_of(child), load_model(child)
    if packed:
        assert pack(model)
    near, plain = (
        Parent(tiny, child, Blend(0.5), k=5, hidden=hidden) for hidden in (Hidden(kind, 9.0, ((0, 0), (-1, 1))), None)
    )
    assert near.join(model) == []
    same, bare = (each.loss(model, batch, 1.0, 1.0).item() for each in (near, plain))
    assert same == pytest.approx(bare, abs=0.1), "the blocks are the same ones, but for rounding"
    crossed = Parent(tiny, child, Blend(0.5), k=5, hidden=Hidden(kind, 9.0, ((0, 1),)))
    found = crossed.loss(model, batch, 1.0, 1.0).item()
    states: list[torch.Tensor] = []
    for block in causal(model).base_model.layers:  # type: ignore[union-attr]
        block.register_forward_hook(lambda _m, _a, out: states.append(out[0] if isinstance(out, tuple) else out))
    completion_loss(model, batch, 1.0)
    first, second = (state[batch.mask_B_T.bool()] if not packed else state[0] for state in states[:2])
    wanted = (
        functional.mse_loss(first.float(), second.float())
        if kind == "mse"
        else (1 - functional.cosine_similarity(first.float(), second.float())).mean()
    )
    assert wanted > 0.01 and found - bare == pytest.approx(9 * wanted.item(), rel=0.05)


@pytest.mark.parametrize("width", [7, 4])
@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_how_far_hidden_states_are_apart_is_the_papers_formula_and_its_gradient(kind: Any, width: int) -> None:
    """In float64: DistilBERT's cosine, TinyBERT's squared error through a projection, with their derivatives written out."""
    draw = torch.Generator().manual_seed(8)
    count, wide = 5, 7
    own, its, projection = (
        torch.randn(*shape, generator=draw, dtype=torch.float64)
        for shape in ((count, width), (count, wide), (wide, width))
    )
    learned = (own.requires_grad_(), projection.requires_grad_())
    found = apart(kind, own, its, projection if width != wide else None)
    found.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        seen = own @ projection.T if width != wide else own
        if kind == "mse":
            wanted, by_seen = (seen - its).square().mean(), 2 * (seen - its) / seen.numel()
        else:
            lengths, others = seen.norm(dim=1, keepdim=True), its.norm(dim=1, keepdim=True)
            angle = (seen * its).sum(1, keepdim=True) / (lengths * others)
            wanted, by_seen = (1 - angle).mean(), (angle * seen / lengths**2 - its / (lengths * others)) / count
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
        grads = (by_seen @ projection, by_seen.T @ own) if width != wide else (by_seen,)
        for leaf, grad in zip(learned, grads, strict=False):
            torch.testing.assert_close(leaf.grad, grad, rtol=1e-6, atol=1e-9)


def test_another_width_is_projected_and_learned(smollm2_hf: Path, tiny: Path) -> None:
    batch, model = batch_of(tiny), load_model(tiny)
    parent = Parent(smollm2_hf, tiny, Blend(0.5), k=5, hidden=Hidden("cosine", 1.0, ((-1, -1),)))
    (weight,) = parent.join(model)
    assert weight.shape == (576, 64)
    parent.loss(model, batch, 1.0, 1.0).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    with pytest.raises(StudentError, match="there is no block 2, there are 2"):
        fits(smollm2_hf, tiny, Hidden("cosine", 1.0, ((2, -1),)))


def test_a_student_comes_nearer_to_its_parent(smollm2_hf: Path, tiny: Path, tmp_path: Path) -> None:
    """Trained from the parent's thoughts alone, with hidden states and without."""

    def far(work: Path, **distil: Any) -> list[float]:
        work.mkdir()
        learn(
            Job(
                base=tiny, rows=tuple(ROWS), dev=(), work=work, config=TrainConfig(max_steps=12, epochs=12, lr=5e-3),
                distil=DistilConfig(method="parent", parent=str(smollm2_hf), weight=1.0, **distil),
            ),
            lambda _: None,
        )  # fmt: skip
        return [
            line["loss"]
            for line in map(json.loads, (work / "history.jsonl").read_text().splitlines())
            if "loss" in line
        ]

    plain, hidden = far(tmp_path / "a"), far(tmp_path / "b", hidden="cosine")
    assert plain[-1] < 0.8 * plain[0] and hidden[-1] < 0.9 * hidden[0]
    assert hidden[0] > plain[0] + 0.5, "states of random weights have nothing in common"


def test_it_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="wants the model to learn from"):
        load_config(sets=("distil.method=parent",))
