"""Where a training run stands, in one file that is whole or absent: written aside, flushed, renamed.

After kill -9 at most `checkpoint_seconds` of work is done again, and the steps come out the same: the file holds the
fp32 weights, the optimizer, the random states, the schedule as it was fitted to the minutes, and the history.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from workbench.digest import digest, file_digest
from workbench.errors import StudentError
from workbench.students.losses import DevScore
from workbench.students.masters import MasterAdamW
from workbench.students.schedule import Schedule
from workbench.students.settings import Pair, TrainConfig

FORMAT = 4
FILE = "checkpoint.pt"
BESTS = ("best", "unrounded")


@dataclass
class Best:
    """The adapter that scored best on dev so far: its step (0 is before training), score and LoRA matrices."""

    step: int
    score: DevScore
    tensors: list[torch.Tensor]


@dataclass
class State:
    """`elapsed` is wall seconds over all lives of the run, `eval_seconds` those of the last look at dev; `fitted` is
    whether `schedule` was already measured against the minutes, `rounded` whether weights are rounded by now: `best` is then
    the best of those, and `unrounded` that of the steps before."""

    schedule: Schedule
    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    eval_seconds: float = 0.0
    fitted: bool = False
    rounded: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None
    unrounded: Best | None = None


def fingerprint(
    base: Path, rows: Sequence[Pair], dev: Sequence[Pair], config: TrainConfig, start: Path | None = None
) -> str:
    """What makes a checkpoint this run's own. How often it is written is not part of it."""
    files = sorted((path.name, path.stat().st_size) for path in base.glob("*.safetensors"))
    options = config.model_dump(exclude={"checkpoint_seconds"})
    begun = [[file_digest(path) for path in sorted(start.glob("*.safetensors"))]] if start is not None else []
    return digest([(base / "config.json").read_text("utf-8"), files, list(rows), list(dev), options, *begun])


def save(work: Path, fingerprint: str, state: State, optimizer: MasterAdamW) -> None:
    """Write the checkpoint of `work`, in place of the one before."""
    content = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "plain": {key: value for key, value in vars(state).items() if key not in ("schedule", *BESTS)},
        "schedule": asdict(state.schedule),
        "bests": {name: _told(getattr(state, name)) for name in BESTS},
        "optimizer": optimizer.state(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    temporary = work / f".{FILE}.tmp"
    with temporary.open("wb") as handle:
        torch.save(content, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(work / FILE)


def load(work: Path, fingerprint: str, optimizer: MasterAdamW) -> State | None:
    """The state of `work`, with weights, optimizer and random states put back; None if there is no checkpoint, or one
    of another run (other rows, options or base). Raises StudentError if the file cannot be read."""
    path = work / FILE
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or content["fingerprint"] != fingerprint:
            return None
        bests, plain = content["bests"], content["plain"]
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise StudentError(f"cannot read {path}: {error}", f"delete it to train from the start: rm {path}") from error
    optimizer.restore(content["optimizer"])
    torch.set_rng_state(content["rng"])
    if content["cuda_rng"]:
        torch.cuda.set_rng_state_all(content["cuda_rng"])
    return State(
        schedule=Schedule(**content["schedule"]),
        best=_best(bests["best"]),
        unrounded=_best(bests["unrounded"]),
        **plain,
    )


def _told(best: Best | None) -> dict[str, Any] | None:
    return None if best is None else {"step": best.step, "score": list(best.score), "tensors": best.tensors}


def _best(told: dict[str, Any] | None) -> Best | None:
    return None if told is None else Best(told["step"], DevScore(*told["score"]), told["tensors"])
