"""AdamW on fp32 master copies of bf16 weights: compute is fast in bf16, small updates are not rounded away.

The usual mixed-precision recipe (Micikevicius et al. 2018, section 3.1). On a CPU it made a LoRA step a quarter faster
than fp32 LoRA matrices, which are cast at each layer.
"""

from collections.abc import Sequence
from typing import Any

import torch

BETAS = (0.9, 0.98)
CLIP = 1.0  # of the gradient's norm


class MasterAdamW:
    """Optimizes `params` in `dtype` through fp32 copies of them. The copies are taken before the cast."""

    def __init__(
        self, params: Sequence[torch.nn.Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        self.params = list(params)
        self.masters = [param.detach().float().clone() for param in self.params]
        self.peak = lr
        for param in self.params:
            param.data = param.data.to(dtype)
        self.adam = torch.optim.AdamW(self.masters, lr=lr, weight_decay=weight_decay, betas=BETAS)

    def step(self, factor: float) -> None:
        """One update at `factor` times the peak learning rate; clears the gradients."""
        for master, param in zip(self.masters, self.params, strict=True):
            master.grad = None if param.grad is None else param.grad.float()
            param.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, CLIP)
        for group in self.adam.param_groups:
            group["lr"] = self.peak * factor
        self.adam.step()
        self._publish()

    def state(self) -> dict[str, Any]:
        return {"masters": self.masters, "adam": self.adam.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        for master, saved in zip(self.masters, state["masters"], strict=True):
            master.copy_(saved)
        self.adam.load_state_dict(state["adam"])
        self._publish()

    def _publish(self) -> None:
        for master, param in zip(self.masters, self.params, strict=True):
            param.data.copy_(master)
