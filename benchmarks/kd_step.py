"""What a step on stored distributions costs beside a step on text alone: the same batches, one after the other, in one process.

    python benchmarks/kd_step.py [--model smollm2-135m-instruct] [--steps 12] [--k 50]

Rows are the seeds of phone_actions; the teacher's tokens are drawn at random, which costs the same. Prints the median seconds
of a step of each kind, and the ratio.
"""

import argparse
import random
from statistics import median
from time import perf_counter

import torch

from workbench import models, registry
from workbench.stages.train import pairs
from workbench.students.batches import collate, encode, plan
from workbench.students.divergence import Blend, Soft
from workbench.students.load import compute_dtype, load_model, load_tokenizer, prepare_base
from workbench.students.lora import with_lora
from workbench.students.losses import completion_loss
from workbench.students.masters import MasterAdamW
from workbench.students.norms import fuse_norms
from workbench.students.packed import pack
from workbench.students.rendering import rendering_for
from workbench.students.settings import TrainConfig


def drawn(tokens: int, k: int, vocabulary: int, rng: random.Random) -> Soft:
    """A peaked distribution at each token: k tokens with nine tenths of the mass."""
    ids = torch.tensor([rng.sample(range(vocabulary), k) for _ in range(tokens)])
    shares = torch.tensor([[0.9 * 0.5 ** (place + 1) for place in range(k)]]).expand(tokens, k)
    return Soft.of(ids, shares.clamp(min=1e-9).log())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--k", type=int, default=50)
    args = parser.parse_args()
    base = prepare_base(models.path_or_name(args.model), models.cache_dir() / "students")
    config, tokenizer, task = TrainConfig(), load_tokenizer(base), registry.load("phone_actions")
    plain = encode(tokenizer, rendering_for(base), pairs(task, task.examples("seed")))
    loaded = load_model(base, nf4=True)
    pack(loaded)
    model = with_lora(loaded, r=config.r, alpha=config.alpha, dropout=config.dropout, dtype=compute_dtype())
    fuse_norms(model)
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = MasterAdamW(params, lr=1e-5, weight_decay=0.0, dtype=compute_dtype())
    rng, width = random.Random(0), int(loaded.config.vocab_size)
    soft = [row._replace(soft=drawn(len(row.ids) - row.prompt, args.k, width, rng)) for row in plain]
    taken: dict[str, list[float]] = {"text": [], "distributions": []}
    steps = plan([len(row.ids) for row in plain], config.tokens_per_step, 0, 100.0)
    model.train()
    for step in range(args.steps + 2):
        _, chosen = steps[step]
        for name, rows, blend in (("text", plain, None), ("distributions", soft, Blend(0.5))):
            began = perf_counter()
            loss = completion_loss(
                model, collate([rows[row] for row in chosen], int(tokenizer.pad_token_id)), 1.0, blend
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step(1.0)
            if step >= 2:  # the first ones compile and touch all weights
                taken[name].append(perf_counter() - began)
    for name, seconds in taken.items():
        print(f"{name:14} {median(seconds):.3f} s a step (median of {len(seconds)})")
    ratios = [b / a for a, b in zip(taken["text"], taken["distributions"], strict=True)]
    print(f"ratio {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
