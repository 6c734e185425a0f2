"""Weights in the order that the processor's matrix unit reads them: oneDNN would put them so anew in each pass.

Shapes: N tokens, I features in, O features out.
"""

from functools import partial

import torch

LINES = 112  # rows that the order is chosen for; others are served too


def prepack(model: torch.nn.Module) -> int:
    """Let each Linear in bf16 on a CPU with bf16 instructions work with packed weights in place of its own; how many do.
    For answering only: no gradient flows through them. Weights that two layers share take their room twice."""
    if not (torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return 0
    layers = [module for module in model.modules() if type(module) is torch.nn.Linear]
    layers = [layer for layer in layers if layer.weight.is_cpu and layer.weight.dtype == torch.bfloat16]
    for layer in layers:
        bias_O = None if layer.bias is None else layer.bias.detach()
        weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), LINES)
        layer.weight = torch.nn.Parameter(layer.weight.new_empty(0), requires_grad=False)
        layer.forward = partial(_linear, weight, bias_O)  # type: ignore[method-assign]
    return len(layers)


def _linear(weight: torch.Tensor, bias_O: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """(…, I) to (…, O), as the layer itself does."""
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias_O, "none", [], "")
    return y
