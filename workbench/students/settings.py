"""What training is asked to do and what it tells meanwhile. pydantic only: cheap to import, safe in a stage key."""

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from workbench.types import Frozen

ADAPTER, UNROUNDED = "adapter", "unrounded"  # folders of a training


class Pair(Frozen):
    """One training or dev row: the user message, and the answer without its end-of-turn.

    `scored` is where the *characters* of the completion that count for exact match on dev begin and end; None is its end, the
    end-of-turn included. It serves outputs whose last field, or first, is free text. It has no influence on training.
    `own`: the student wrote it; what a teacher thinks of it is learned, its text is not.
    """

    prompt: str
    completion: str
    scored: tuple[int, int | None] = (0, None)
    own: bool = False


class TrainConfig(Frozen):
    """Options of one QLoRA run. The defaults are what worked for a 135M student on two cores."""

    quantize_base: Literal["nf4", "bf16"] = "nf4"  # of the frozen weights
    r: int = Field(default=32, ge=1)  # rank of the adapter
    alpha: float = Field(default=64.0, gt=0)  # the adapter's weight is alpha / r
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the adapter; on a CPU, drawing its masks is 30 % of a step
    lr: float | None = Field(default=None, gt=0)  # learning rate at its peak; None: by the student's size (schedule.py)
    epochs: float = Field(default=3.0, gt=0)  # over the shard, at most
    max_steps: int | None = Field(default=None, ge=1)  # at most; none: any number
    tokens_per_step: int = Field(default=1100, ge=1)  # of the rows, without padding
    balance: float = Field(
        default=1.0, ge=0, le=1
    )  # what counts alike in the loss; 0: each token of an answer; 1: each row
    resplit: float | None = Field(
        default=None, ge=0, le=1
    )  # share of rows whose rare words are in pieces, as if never met; None: none, half for a trimmed vocabulary (cascade)
    max_length: int = Field(default=1024, ge=8)  # tokens a row; longer rows are left out, counted and told
    warmup: float = Field(default=0.06, ge=0, lt=1)  # share of the steps with a rising learning rate
    weight_decay: float = Field(default=0.0, ge=0)  # of the optimizer
    seed: int = 0  # of the rows' order and the adapter
    evals: int = Field(default=6, ge=1)  # looks at dev over the run, beside the one before the first step
    max_minutes: float | None = Field(default=None, gt=0)  # wall time, loading included
    min_steps: int = Field(default=0, ge=0)  # as many even where the minutes are over: fewer teach nothing
    checkpoint_seconds: float = Field(default=60.0, ge=0)  # between two checkpoints


Divergence = Literal["forward_kl", "reverse_kl", "jsd", "tvd"]
Grid = Literal["Q4_0", "Q8_0"]
Match = Literal["cosine", "mse"]


class DistilConfig(Frozen):
    """What a student learns from: the `method` (methods/). Where it learns a teacher's distributions, a divergence from those
    takes `weight` of the loss."""

    method: str = "sft"  # as `--method`
    # what a teacher thinks (kd, gkd, parent)
    k: int = Field(default=50, ge=1, le=1000)  # of a teacher's likeliest tokens at each place
    rows: int = Field(default=0, ge=0)  # a teacher reads at most so many of the shard, recombined ones last; 0: all
    weight: float = Field(default=0.5, gt=0, le=1)  # of the divergence in the loss
    temperature: float = Field(default=1.0, gt=0)  # of both distributions
    divergence: Divergence | None = None  # of the two distributions; None: the method's own
    beta: float = Field(default=0.5, gt=0, lt=1)  # of jsd
    # a model between teacher and student (assistant, kd)
    assistant: str = (
        ""  # learns the rows first; then it reads them in the teacher's place, or labels others (assistant)
    )
    assistant_share: float = Field(default=1.0, gt=0)  # of the student's steps, epochs and minutes, for its training
    # a model with the student's tokens that reads along (parent)
    parent: str = ""  # named as a student is: a model with its tokens, which reads along
    hidden: Match | None = None  # the parent's hidden states are matched too, block by block of `layers`
    hidden_weight: float = Field(default=1.0, gt=0)  # of hidden states in the loss
    layers: tuple[tuple[int, int], ...] = Field(
        default=((-1, -1),), min_length=1
    )  # pairs of the student's and the parent's
    # the file's rounding
    grid: Grid = (
        "Q4_0"  # of the file whose rounding is learned; Q8_0 where no other file is to be made, and none is named
    )
    last_mile: float | None = Field(
        default=None, ge=0, le=1
    )  # share of the steps, the last ones, with rounded weights; None: the method's own
    # the student's own answers before a later round (gkd, dagger), or the assistant's
    attempts: int = Field(default=1000, ge=1)  # inputs that the student answers, or the assistant
    warmth: float = Field(default=0.7, ge=0, le=2)  # the temperature of its answers
    fresh: float = Field(default=0.3, ge=0, lt=1)  # of a later round's rows, at least this share is new or its own


class Captured(NamedTuple):
    """A teacher's distributions on disk, the folder of the tokenizer that they are of, or of `pieces.json`, and how much they
    count beside another's."""

    file: Path
    tokenizer: Path
    weight: float = 1.0


class Progress(NamedTuple):
    """What the `progress` callback gets after each step (and once at step 0).

    `loss` is the mean negative log-likelihood of a completion token, in nats; `dev_exact` a share from 0 to 1; the last
    three are set only where there is something to tell.
    """

    step: int
    total: int
    epoch: float
    loss: float | None
    lr: float
    tokens_per_s: float
    seconds_left: float | None
    dev_exact: float | None = None
    dev_loss: float | None = None
    note: str = ""
