"""A smaller model from a larger one: fewer blocks, narrower feed-forwards. What is dropped is what the task's rows use least.

    importance   rows through the model -> how much each block does to them, and how its feed-forward neurons go together
    pruned       Hugging Face folder -> a smaller one, to be trained again. What neurons did that go, those that stay take over
                 as far as they can: their outlets are fitted anew, in closed form

Both count on decoders like Llama and Qwen2: blocks in `model.layers`, each with `mlp.{gate,up,down}_proj`. The vocabulary is
trimmed in vocabulary.py.

Shapes: L blocks, F feed-forward neurons a block, K of them kept, N tokens without padding, H hidden size.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from workbench.errors import StudentError
from workbench.students.batches import Encoded, by_length, collate
from workbench.students.folders import copy_settings, new_folder, read_config, read_shapes, read_tensors, write_model
from workbench.students.load import load_model

ROW = 32  # llama.cpp's quantizations take the rows of a matrix in blocks of 32; K-quants in 256, or they fall back to these
VERSION = 2  # raise it where the same model comes to be pruned otherwise
RIDGE = 0.01  # of the mean square of a block's activations
TINY = 1e-12  # where none is active
_A_BLOCK = ("layer_types", "no_rope_layers")  # settings with an entry a block
_TENSOR = re.compile(r"model\.layers\.(\d+)\.(.+)")
_WITHIN = {"mlp.gate_proj.weight": 0, "mlp.up_proj.weight": 0, "mlp.gate_proj.bias": 0, "mlp.up_proj.bias": 0,
           "mlp.down_proj.weight": 1}  # the dimension that counts neurons  # fmt: skip


class Importance(NamedTuple):
    """Measured over all tokens of some rows; fp32 on the CPU.

    `blocks_L`: 1 - mean cosine of a block's input and output, 0 where it does nothing (Men et al. 2024, ShortGPT).
    `grams_L_F_F`: the mean product of each two neurons' activations: 4 L F^2 bytes, 280 MB of a 135M model, and while it is
    measured twice that.
    """

    blocks_L: torch.Tensor
    grams_L_F_F: torch.Tensor


@torch.no_grad()
def importance(base: Path, texts: Sequence[Encoded], *, tokens: int) -> Importance:
    """How much the blocks and neurons of `base` do to `texts`, read in batches of `tokens` without padding. A few thousand
    tokens are enough. Raises StudentError: no rows, a model of another kind."""
    if not texts:
        raise StudentError("there are no rows to measure importance on", "give some of the training rows")
    _shape(base, read_config(base))
    model = load_model(base)
    model.train(False)
    watch = _Watch(model)
    for chosen in by_length([len(row.ids) for row in texts], tokens):
        batch = collate([texts[row] for row in chosen], pad=0).to(model.device)
        watch.real_B_T = batch.mask_B_T.bool()
        model.base_model(input_ids=batch.ids_B_T, attention_mask=batch.mask_B_T, use_cache=False)
    count = sum(len(row.ids) for row in texts)
    blocks_L = 1 - torch.stack(watch.cosine_L) / count
    return Importance(blocks_L.float().cpu(), torch.stack(watch.grams_L).div_(count).cpu())


def pruned(base: Path, out: Path, *, blocks: int, neurons: int, found: Importance) -> Path:
    """Writes the folder `out` and gives it back: the `blocks` most important blocks in their order, in each the `neurons` that
    would be missed most in theirs, with outlets that make up for the others. With all of them kept the weights are bit for bit
    those of `base`. A folder already there is replaced.

    `neurons` is a multiple of 32; where it is one of 256, K-quants hold down_proj in their own format. Raises StudentError.
    """
    config = read_config(base)
    shape = _shape(base, config)
    _sensible(shape, blocks, neurons, found)
    first_L = found.blocks_L.argsort(descending=True, stable=True)[:blocks]
    places = {int(block): place for place, block in enumerate(first_L.sort().values)}
    whole = read_tensors(base)
    tensors, kept_K = dict[str, torch.Tensor](), dict[int, torch.Tensor]()
    if neurons < shape[1]:
        for block in places:
            down = f"model.layers.{block}.mlp.down_proj.weight"
            kept_K[block], whole[down] = _taken_over(whole[down], found.grams_L_F_F[block], neurons)
    for name, tensor in whole.items():
        inside = _TENSOR.fullmatch(name)
        if not inside:
            tensors[name] = tensor
        elif (block := int(inside[1])) in places:
            dimension = _WITHIN.get(inside[2]) if block in kept_K else None
            kept = tensor if dimension is None else tensor.index_select(dimension, kept_K[block])
            tensors[f"model.layers.{places[block]}.{inside[2]}"] = kept
    with new_folder(out) as folder:
        copy_settings(base, folder)
        write_model(folder, _smaller(config, list(places), neurons), tensors)
    return out


def _taken_over(down_H_F: torch.Tensor, gram_F_F: torch.Tensor, neurons: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which neurons stay (K,), in their order, and down_proj (H, F) where the columns of these give what all gave, as nearly as
    least squares over the rows can have it (Hassibi and Stork 1993, Optimal Brain Surgeon). Those go whose going alone would
    leave the least error, made up for so: |w_f|^2 / (G^-1)_ff. Each is judged alone: two that say the same both look as if they
    could go."""
    weight_H_F, gram = (each.to(torch.double, copy=True) for each in (down_H_F, gram_F_F))
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + TINY)
    missed_F = weight_H_F.square().sum(0) / torch.linalg.inv(gram).diagonal()
    order_F = missed_F.argsort(descending=True, stable=True)
    kept_K, gone = order_F[:neurons].sort().values, order_F[neurons:]
    taken_K_H = torch.linalg.solve(gram[kept_K][:, kept_K], gram[kept_K][:, gone] @ weight_H_F[:, gone].T)
    weight_H_F[:, kept_K] += taken_K_H.T
    return kept_K, weight_H_F.to(down_H_F.dtype)


class _Watch:
    """Hooks that add up what passes, token by token, padding left out: the cosine of each block's input and output, and the
    products of its neurons' activations."""

    def __init__(self, model: PreTrainedModel) -> None:
        layers: Any = model.base_model.layers
        self.real_B_T = torch.empty(0)
        self.cosine_L = [torch.zeros((), dtype=torch.float64, device=model.device) for _ in layers]
        sizes = [int(layer.mlp.down_proj.in_features) for layer in layers]
        self.grams_L = [torch.zeros(size, size, device=model.device) for size in sizes]
        for block, layer in enumerate(layers):
            layer.register_forward_hook(self._block(block), with_kwargs=True)
            layer.mlp.down_proj.register_forward_pre_hook(self._neurons(block))

    def _block(self, block: int) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            before_N_H, after_N_H = (state[self.real_B_T].double() for state in (before, after))
            self.cosine_L[block] += functional.cosine_similarity(before_N_H, after_N_H, dim=-1).sum()

        return hook

    def _neurons(self, block: int) -> Any:
        def hook(_module: Any, args: Any) -> None:
            active_N_F = args[0][self.real_B_T].float()
            self.grams_L[block].addmm_(active_N_F.T, active_N_F)

        return hook


def _shape(base: Path, config: dict[str, Any]) -> tuple[int, int]:
    """(blocks, neurons a block) of a model that can be pruned. Raises StudentError for another."""
    blocks, neurons = config.get("num_hidden_layers"), config.get("intermediate_size")
    shapes = read_shapes(base)
    names = [f"model.layers.{block}.mlp.down_proj.weight" for block in range(blocks or 0)]
    if not names or any(shapes.get(name, [0])[-1] != neurons for name in names):
        raise StudentError(
            f"{base.name} ({config.get('model_type')}) cannot be pruned: it is not a decoder with dense blocks like Llama's",
            "prune a Llama, Mistral or Qwen2",
        )
    return len(names), int(neurons or 0)


def _sensible(shape: tuple[int, int], blocks: int, neurons: int, found: Importance) -> None:
    if tuple(found.grams_L_F_F.shape[:2]) != shape or tuple(found.blocks_L.shape) != shape[:1]:
        raise StudentError(
            f"importance was measured on {tuple(found.grams_L_F_F.shape[:2])} blocks and neurons, the model has {shape}",
            "measure it on the model that is pruned",
        )
    if not 1 <= blocks <= shape[0]:
        raise StudentError(f"cannot keep {blocks} blocks of {shape[0]}", f"keep 1 to {shape[0]}")
    if not 1 <= neurons <= shape[1] or (neurons % ROW and neurons != shape[1]):
        raise StudentError(
            f"cannot keep {neurons} feed-forward neurons of {shape[1]}",
            f"keep a multiple of {ROW} (of 256 for K-quants), for quantizations take them in such blocks",
        )


def _smaller(config: dict[str, Any], kept: Sequence[int], neurons: int) -> dict[str, Any]:
    """config.json for the `kept` blocks."""
    lists = {name: [config[name][block] for block in kept] for name in _A_BLOCK if config.get(name)}
    return config | lists | {"num_hidden_layers": len(kept), "intermediate_size": neurons}
