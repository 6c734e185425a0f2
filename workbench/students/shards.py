"""A student whose frozen weights are spread over the processes that train it (fully sharded data parallel, Zhao et al. 2023,
arXiv:2304.11277; torch's `fully_shard`): a block's are put together for as long as it computes, and let go.

Adapters are small: each process has all of them, so that gradients, the optimizer and checkpoints are those of any crew
(students/crew.py). So is the table of tokens, which the head shares. Each process must come by a block as often as the others.
Of a last mile's rounded weights (students/grid.py) each keeps all from a forward pass to its backward one.
"""

from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from workbench.students.crew import Crew
from workbench.students.load import best_device
from workbench.students.losses import causal
from workbench.students.parent import blocks_of


def shard(model: PeftModel, crew: Crew) -> float:
    """Spreads the weights of a model that was read into memory, and puts the rest of it onto this process's device. The share
    of the blocks' frozen weights that this process holds, 0 to 1. Raises StudentError where the blocks are not known."""
    device = best_device()
    mesh = init_device_mesh(device.type, (crew.size,))
    adapters = {param for param in model.parameters() if param.requires_grad}
    blocks = blocks_of(causal(model))
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapters, reshard_after_forward=True)
    model.to(device)
    frozen = [param for block in blocks for param in block.parameters() if not param.requires_grad]
    own = sum(param.to_local().numel() if isinstance(param, DTensor) else param.numel() for param in frozen)
    return own / sum(param.numel() for param in frozen)
