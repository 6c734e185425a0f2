"""Processes that train one student together, each on its share of a step's rows (data parallel; Li et al. 2020,
arXiv:2006.15704).

Who starts them tells each who it is, in RANK, WORLD_SIZE and the like: `accelerate launch`, `torchrun`. All plan the same
steps; gradients are summed, and what depends on the clock is what the first of them says.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@dataclass(frozen=True)
class Crew:
    """One of `size`, the `rank`th. The default is one alone, for whom all of this is nothing. `sharded`: each holds a part of
    the frozen weights (students/shards.py)."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and tells."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """Its part of a step's rows, by turns: those of one length are neighbours. Empty where there are fewer rows than
        processes."""
        return rows[self.rank :: self.size]

    def said(self, value: T) -> T:
        """What the first one's value is."""
        if self.size == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, value: float) -> float:
        """Of all."""
        if self.size == 1:
            return value
        box = torch.tensor([value], dtype=torch.float64, device=_device())
        distributed.all_reduce(box)
        return float(box.item())

    def sum_gradients(self, params: Iterable[torch.nn.Parameter]) -> None:
        """In place, in float32; a parameter that has none here counts as nothing."""
        if self.size == 1:
            return
        held = list(params)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in held])
        distributed.all_reduce(flat)
        at = 0
        for param in held:
            param.grad = flat[at : at + param.numel()].view_as(param).to(param.dtype)
            at += param.numel()

    def wait(self) -> None:
        """For all."""
        if self.size > 1:
            distributed.barrier()


ALONE = Crew()


def enlisted() -> Crew:
    """Who this process is, by its environment, in which accelerate tells of FSDP too; it waits for the others."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return Crew(distributed.get_rank(), size, os.environ.get("ACCELERATE_USE_FSDP") == "true")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
