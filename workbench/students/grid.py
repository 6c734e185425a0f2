"""Weights as a quantized file will have them: rounded to llama.cpp's grids and read back, so that training can see it.

An adapter that was trained beside rounded weights has learnt to live with the rounding (quantization-aware training, Jacob et
al. 2018, arXiv:1712.05877; the gradient passes straight through it, Bengio et al. 2013). The grids are those of llama.cpp's
reference quantizer: blocks of 32 weights along the inputs, a scale in fp16 each. With an importance matrix its quantizer
chooses other scales, so a file of such an adapter is made without one.
"""

from collections.abc import Callable

import torch

from workbench.students import settings

BLOCK = 32
Grid = Callable[[torch.Tensor], torch.Tensor]


def q4_0(weight_O_I: torch.Tensor) -> torch.Tensor:
    """Float32 in and out: 16 levels, the largest weight of a block on the lowest one."""
    blocks_N_B = weight_O_I.reshape(-1, BLOCK)
    largest_N_1 = blocks_N_B.gather(1, blocks_N_B.abs().argmax(1, keepdim=True))
    step_N_1 = largest_N_1 / -8
    levels_N_B = (blocks_N_B * _inverse(step_N_1) + 8.5).floor_().clamp_(0, 15)
    return levels_N_B.sub_(8).mul_(step_N_1.half().float()).view_as(weight_O_I)


def q8_0(weight_O_I: torch.Tensor) -> torch.Tensor:
    """Float32 in and out: 255 levels."""
    blocks_N_B = weight_O_I.reshape(-1, BLOCK)
    step_N_1 = blocks_N_B.abs().amax(1, keepdim=True) / 127
    scaled_N_B = blocks_N_B * _inverse(step_N_1)
    levels_N_B = scaled_N_B.abs().add_(0.5).floor_().mul_(scaled_N_B.sign())  # halves go away from zero, as in C
    return levels_N_B.mul_(step_N_1.half().float()).view_as(weight_O_I)


def _inverse(step_N_1: torch.Tensor) -> torch.Tensor:
    return torch.where(step_N_1 == 0, 0.0, 1 / step_N_1)


GRIDS: dict[settings.Grid, Grid] = {"Q4_0": q4_0, "Q8_0": q8_0}
