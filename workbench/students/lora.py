"""LoRA on all linear layers but the head, in one step of the tape a layer: y = x Wᵀ + s (x Aᵀ) Bᵀ (Hu et al. 2021).

peft says what an adapter is, makes it and saves it. On a CPU its layers spend a third of a training step on copying,
scaling and adding whole activations, and on unpacking NF4 in each pass; `_fuse` replaces what they do by products that add
in place, on weights unpacked once, which take the place of the packed ones. The numbers are those of QLoRA: the base is what
NF4 left of it. With a grid base and adapter are one matrix, rounded as the shipped file will be (`grid`).

Shapes: N tokens, I inputs, O outputs, R rank.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from workbench.errors import StudentError
from workbench.students.grid import BLOCK, Grid


def with_lora(
    model: PreTrainedModel,
    *,
    r: int,
    alpha: float,
    dropout: float,
    dtype: torch.dtype,
    grid: Grid | None = None,
    unpacked: bool = False,
) -> PeftModel:
    """The model, frozen, with fresh LoRA matrices. `dtype` is what they will be computed in; with a `grid` the sum of base and
    adapter is rounded to it in each pass, but for layers whose inputs do not fill its blocks, which stay as in
    the file. `unpacked`: no weight may stay in NF4 (students/shards.py). Raises StudentError where there is dropout with one of
    these."""
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    if dropout and (grid is not None or unpacked):
        why = "trained for its quantized form" if grid is not None else "spread over processes"
        raise StudentError(f"a student that is {why} takes no dropout", "set train.dropout=0")
    if grid is not None or unpacked or (not dropout and model.device.type == "cpu"):
        _fuse(adapted, dtype, grid)
    return adapted


def onto_grid(model: PeftModel, grid: Grid | None) -> None:
    """Rounds from now on, or no more, in a model that was made with a grid."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and isinstance(forward := module.forward, partial):
            layer, _ = forward.args
            module.forward = partial(_forward, layer, _of_blocks(grid, layer.get_base_layer()))


def put_on(model: PeftModel, adapter: Path) -> None:
    """The matrices of a saved adapter, in the place of fresh ones. Raises StudentError where they are of another shape."""
    try:
        found: Any = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"))
    except (RuntimeError, OSError) as error:
        raise StudentError(f"the adapter {adapter} does not fit: {error}", "train from the start") from error
    if found.unexpected_keys:
        raise StudentError(f"the adapter {adapter} has matrices of another model", "train from the start")


def _fuse(model: PeftModel, dtype: torch.dtype, grid: Grid | None) -> None:
    for module in model.modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            base = layer.get_base_layer()
            if isinstance(base, torch.nn.Linear):
                base.weight = torch.nn.Parameter(_dense(base).to(dtype), requires_grad=False)
                layer.forward = partial(_forward, layer, _of_blocks(grid, base))


def _of_blocks(grid: Grid | None, base: Any) -> Grid | None:
    return grid if base.in_features % BLOCK == 0 else None


def _dense(base: Any) -> torch.Tensor:
    """(O, I)."""
    packed: Any = base.weight
    found: torch.Tensor = (
        dequantize_4bit(packed.data, packed.quant_state) if isinstance(base, Linear4bit) else packed.data
    )
    return found


def _forward(layer: LoraLayer, grid: Grid | None, x: torch.Tensor) -> torch.Tensor:
    name: str = layer.active_adapters[0]
    base: Any = layer.get_base_layer()
    a_R_I, b_O_R = layer.lora_A[name].weight, layer.lora_B[name].weight
    given: Any = (x.reshape(-1, x.shape[-1]), base.weight, a_R_I, b_O_R, layer.scaling[name])
    product: Any = _LoraProduct if grid is None else _GridProduct
    y_N_O: torch.Tensor = product.apply(*given, *(() if grid is None else (grid,)))
    if base.bias is not None:
        y_N_O = y_N_O + base.bias
    return y_N_O.view(*x.shape[:-1], -1)


class _LoraProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_N_I: torch.Tensor, weight_O_I: torch.Tensor, a_R_I: torch.Tensor, b_O_R: torch.Tensor, scale: float
    ) -> torch.Tensor:
        low_N_R = x_N_I @ a_R_I.T
        ctx.save_for_backward(x_N_I, weight_O_I, a_R_I, b_O_R, low_N_R)
        ctx.scale = scale
        return (x_N_I @ weight_O_I.T).addmm_(low_N_R, b_O_R.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_N_O: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None]:
        x_N_I, weight_O_I, a_R_I, b_O_R, low_N_R = ctx.saved_tensors
        low_grad_N_R = (grad_N_O @ b_O_R).mul_(ctx.scale)
        grad_x = (grad_N_O @ weight_O_I).addmm_(low_grad_N_R, a_R_I) if ctx.needs_input_grad[0] else None
        return grad_x, None, low_grad_N_R.T @ x_N_I, (grad_N_O.T @ low_N_R).mul_(ctx.scale), None


class _GridProduct(torch.autograd.Function):
    """y = x G(W + s B A)ᵀ, its gradient as if G were not there."""

    @staticmethod
    def forward(
        ctx: Any, x_N_I: torch.Tensor, weight_O_I: torch.Tensor, a_R_I: torch.Tensor, b_O_R: torch.Tensor, scale: float,
        grid: Grid,
    ) -> torch.Tensor:  # fmt: skip
        merged_O_I = torch.addmm(weight_O_I.float(), b_O_R.float(), a_R_I.float(), alpha=scale)
        rounded_O_I = grid(merged_O_I.bfloat16().float()).to(x_N_I.dtype)  # merged weights are written down in bf16
        ctx.save_for_backward(x_N_I, rounded_O_I, a_R_I, b_O_R)
        ctx.scale = scale
        return x_N_I @ rounded_O_I.T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_N_O: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None, None]:
        x_N_I, rounded_O_I, a_R_I, b_O_R = ctx.saved_tensors
        low_grad_N_R = (grad_N_O @ b_O_R).mul_(ctx.scale)
        grad_x = grad_N_O @ rounded_O_I if ctx.needs_input_grad[0] else None
        return grad_x, None, low_grad_N_R.T @ x_N_I, (grad_N_O.T @ (x_N_I @ a_R_I.T)).mul_(ctx.scale), None, None
