"""A larger model that reads what the student reads, step by step: the one that it was pruned from, or another with its tokens.

What it thinks of each token is a soft target like a stored one (`divergence.Soft`), without a file. And its hidden states can
be matched: by cosine (Sanh et al. 2019, DistilBERT, arXiv:1910.01108) or squared error (Jiao et al. 2020, TinyBERT,
arXiv:1909.10351), through a learned projection where the two widths differ.

Shapes: B rows of T tokens, N tokens of all rows without padding, L labelled tokens, K kept ones, V the student's vocabulary, H
hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.digest import digest
from workbench.errors import StudentError
from workbench.students.batches import Batch
from workbench.students.divergence import Blend, Soft
from workbench.students.folders import read_config
from workbench.students.load import load_model, load_tokenizer
from workbench.students.losses import causal, completion_loss, labelled, logits
from workbench.students.packed import pack
from workbench.students.settings import Match

ABSENT = -1  # in the place of a token: the parent does not have it


class Hidden(NamedTuple):
    """How far hidden states are apart counts `weight` in the loss; `layers` are pairs of blocks, the student's and the
    parent's, counted from the end where negative."""

    kind: Match
    weight: float
    layers: tuple[tuple[int, int], ...]


class Parent:
    """`folder` is its own, `student` the student's. Raises StudentError where the student has tokens that it lacks, or where it
    has no such block."""

    def __init__(self, folder: Path, student: Path, blend: Blend, *, k: int, hidden: Hidden | None = None) -> None:
        self.blend, self.k, self.hidden = blend, k, hidden
        ids_V = fits(folder, student, hidden)
        self.model = load_model(folder).requires_grad_(False)
        self.model.train(False)
        pack(self.model)
        self._ids_V = ids_V.to(self.model.device)
        self._known_V = (self._ids_V != ABSENT).nonzero()[:, 0]
        self._columns_V = self._ids_V[self._known_V]
        self.name = digest(
            [(folder / "config.json").read_text("utf-8"), sorted(p.stat().st_size for p in folder.glob("*.safetensors")),
             str(folder), k, blend._asdict(), hidden and hidden._asdict()]
        )  # fmt: skip
        self._projections: list[torch.nn.Parameter] = []  # each of a pair of blocks

    def join(self, model: torch.nn.Module) -> list[torch.nn.Parameter]:
        """What is to be trained beside the student `model`: the projections of its hidden states."""
        if self.hidden is None:
            return []
        plain = causal(model)
        own, theirs = (int(each.config.hidden_size) for each in (plain, self.model))
        if own != theirs:
            made = [torch.nn.Linear(own, theirs, bias=False).to(self.model.device) for _ in self.hidden.layers]
            self._projections = [torch.nn.Parameter(layer.weight.detach()) for layer in made]
        return self._projections

    def loss(
        self, model: torch.nn.Module, batch: Batch, balance: float, share: float = 1.0, tokens: float = 1.0
    ) -> torch.Tensor:
        """As `losses.completion_loss`, with what it thinks of the batch, and how far its hidden states are away. `tokens`: the
        share of a step's tokens that stand in this batch."""
        layers = self.hidden.layers if self.hidden is not None else ()
        with _watched(causal(model), [own for own, _ in layers]) as mine:
            with _watched(self.model, [its for _, its in layers]) as its:
                soft = self.thoughts(batch)
            loss = completion_loss(model, batch._replace(soft=soft), balance, self.blend, share)
        if self.hidden is None:
            return loss
        real_B_T = batch.mask_B_T.bool()
        projections: Sequence[torch.nn.Parameter | None] = self._projections or [None] * len(layers)
        far = [
            apart(self.hidden.kind, _in_line(own, real_B_T), _in_line(other, real_B_T), projection)
            for own, other, projection in zip(mine, its, projections, strict=True)
        ]
        return loss + self.hidden.weight * tokens * torch.stack(far).mean()

    @torch.no_grad()
    def thoughts(self, batch: Batch) -> Soft:
        """Its likeliest next tokens before each labelled one, by the student's ids. What it gives to tokens that the student
        lacks is of the tail."""
        theirs_B_T = self._ids_V[batch.ids_B_T]
        hidden_L_H, *_ = labelled(self.model, batch._replace(ids_B_T=theirs_B_T, soft=None))
        logprobs_L_V = logits(self.model, hidden_L_H).log_softmax(1)[:, self._columns_V]
        top = logprobs_L_V.topk(min(self.k, logprobs_L_V.shape[1]))
        return Soft.of(self._known_V[top.indices], top.values)


def apart(
    kind: Match, own_N_H: torch.Tensor, its_N_H: torch.Tensor, projection_H_H: torch.Tensor | None = None
) -> torch.Tensor:
    """How far hidden states are apart, a scalar, 0 where they are the same: their mean squared difference, or 1 less the cosine
    of the angle between them, the mean over tokens. `projection`: from the student's width (in) to the other's (out)."""
    if projection_H_H is not None:
        own_N_H = functional.linear(own_N_H, projection_H_H.to(own_N_H.dtype))
    own_N_H, its_N_H = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (own_N_H, its_N_H))
    if kind == "mse":
        return functional.mse_loss(own_N_H, its_N_H)
    return (1 - functional.cosine_similarity(own_N_H, its_N_H)).mean()


def fits(folder: Path, student: Path, hidden: Hidden | None) -> torch.Tensor:
    """The parent's id of each of the student's tokens (V,), ABSENT where that is no token but a row of the table. Raises
    StudentError where it cannot teach the student; neither is loaded for this."""
    ids_V = _its_ids(folder, student)
    counts = [int(read_config(each)["num_hidden_layers"]) for each in (student, folder)]
    for pair in hidden.layers if hidden is not None else ():
        for count, place in zip(counts, pair, strict=True):
            if not -count <= place < count:
                raise StudentError(
                    f"distil.layers: there is no block {place}, there are {count}", "count from 0, or -1 back"
                )
    return ids_V


def _its_ids(folder: Path, student: Path) -> torch.Tensor:
    theirs, own = (load_tokenizer(each).get_vocab() for each in (folder, student))
    lacking = sorted(own.keys() - theirs.keys())
    if lacking:
        raise StudentError(
            f"{student} writes {len(lacking)} tokens that {folder} does not have, {lacking[0]!r} for one",
            "learn from a model with the student's tokenizer, or from what it thinks (--method kd)",
        )
    ids_V = torch.full((max(own.values()) + 1,), ABSENT)
    for token, place in own.items():
        ids_V[place] = theirs[token]
    return ids_V


def blocks_of(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The decoder's layers. Raises StudentError where they are not in `layers`."""
    found: Any = getattr(model.base_model, "layers", None)
    if found is None:
        raise StudentError(
            f"the blocks of a {model.config.model_type} are not known by that name", "leave out distil.hidden, and FSDP"
        )
    blocks: Sequence[torch.nn.Module] = found
    return blocks


@contextmanager
def _watched(model: PreTrainedModel, places: Sequence[int]) -> Iterator[list[torch.Tensor]]:
    """What these blocks give, in the places' order, once the model has read."""
    found: dict[int, torch.Tensor] = {}

    def hook(turn: int) -> Any:
        def took(_module: Any, _args: Any, output: Any) -> None:
            found[turn] = output[0] if isinstance(output, tuple) else output

        return took

    blocks = blocks_of(model) if places else []
    handles = [blocks[place].register_forward_hook(hook(turn)) for turn, place in enumerate(places)]
    seen: list[torch.Tensor] = []
    try:
        yield seen
        seen += [found[turn] for turn in range(len(places))]
    finally:
        for handle in handles:
            handle.remove()


def _in_line(state: torch.Tensor, real_B_T: torch.Tensor) -> torch.Tensor:
    """(N, H), of rows that stand in one line already, or of padded ones."""
    return state[real_B_T] if state.shape[:2] == real_B_T.shape else state[0]
