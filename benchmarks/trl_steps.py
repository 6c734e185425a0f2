"""A student's training here beside TRL's own SFTTrainer: the same rows as the same token ids, one model, in one process.

    python benchmarks/trl_steps.py [--steps 40] [--repeat 3] [--home FOLDER]

Both train QLoRA (NF4, r = 32 on all linear layers, bf16, AdamW, one learning rate, a cosine) on completions alone. TRL goes its
own ways where they are its defaults (a random order, rows padded to the longest of a batch), but for gradient checkpointing,
which is off; its batches hold as many rows as give as many tokens a step as ours had. In turn, `--repeat` times, each
with another seed. Prints the median seconds of a step of each, the loss on the dev rows after as many tokens with the mean
of their differences, and how many times as many tokens a second.

TRL is put into a folder under `--home` on first use, beside the libraries of this environment.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, median, stdev
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

TRL = ("trl==1.16.0", "datasets==5.2.0", "pyarrow==21.0.0", "dill", "multiprocess", "pandas", "xxhash",
       "python-dateutil", "pytz", "tzdata", "six")  # fmt: skip
SKIPPED = 5  # steps at the beginning, which touch all for the first time
MADE = 1500  # rows by recombination


class Measured(NamedTuple):
    """Seconds of each step, tokens without padding, the loss on dev in nats a token."""

    seconds: list[float]
    tokens: int
    loss: float


def at_hand(home: Path) -> None:
    """TRL and what it needs beyond this environment, after all else on the path."""
    folder = home / "trl"
    if not (folder / "trl").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*pip, *TRL], check=True)
    sys.path.append(str(folder))


class Rows:
    """Those of phone_actions: the seeds, and what recombination makes of them."""

    def __init__(self) -> None:
        from workbench import models, registry
        from workbench.sources.recombine import recombine
        from workbench.sources.values import pools_of
        from workbench.stages.train import pairs
        from workbench.students.batches import encode
        from workbench.students.load import load_tokenizer, prepare_base
        from workbench.students.rendering import rendering_for

        self.base = prepare_base(models.path_or_name("smollm2-135m-instruct"), models.cache_dir() / "students")
        task = registry.load("phone_actions")
        seeds = task.examples("seed")
        made = recombine(task, seeds, pools_of(task.output, [row.target for row in seeds]), MADE, 0)
        self.pairs = pairs(task, [*seeds, *made])
        self.dev_pairs = pairs(task, task.examples("dev"))
        self.tokenizer = load_tokenizer(self.base)
        self.encoded, self.dev = (
            encode(self.tokenizer, rendering_for(self.base), each) for each in (self.pairs, self.dev_pairs)
        )


def ours(rows: Rows, config: Any, folder: Path) -> Measured:
    from workbench.students.load import compute_dtype, load_model
    from workbench.students.lora import put_on, with_lora
    from workbench.students.losses import dev_score
    from workbench.students.qlora import train

    took: list[float] = []
    at = [perf_counter()]

    def step(progress: Any) -> None:
        now = perf_counter()
        took.append(now - at[0])
        at[0] = now

    adapter = train(rows.base, rows.pairs, [], config, folder / "ours", step)
    history = [json.loads(line) for line in (folder / "ours" / "history.jsonl").read_text().splitlines()]
    model = with_lora(
        load_model(rows.base, nf4=True), r=config.r, alpha=config.alpha, dropout=0.0, dtype=compute_dtype()
    )
    put_on(model, adapter)
    for param in model.parameters():
        if param.requires_grad:
            param.data = param.data.to(compute_dtype())
    loss = dev_score(model, rows.dev, pad=int(rows.tokenizer.pad_token_id), tokens=config.tokens_per_step).loss
    return Measured(took[1 + SKIPPED :], history[-1]["tokens"], loss)


def trls(rows: Rows, config: Any, folder: Path, tokens_a_step: float) -> Measured:
    import torch
    from datasets import Dataset, fingerprint
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from workbench.students.load import load_model
    from workbench.students.losses import dev_score

    # nothing is cached here; and its dill would take libraries that lie outside of the environment for code to copy
    fingerprint.Hasher.hash = classmethod(lambda cls, value: uuid4().hex)
    took: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at = perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.append(perf_counter() - self.at)

    mean = sum(len(row.ids) for row in rows.encoded) / len(rows.encoded)
    data = Dataset.from_list(
        [
            {"input_ids": row.ids, "completion_mask": [0] * row.prompt + [1] * (len(row.ids) - row.prompt)}
            for row in rows.encoded
        ]
    )
    trainer = SFTTrainer(
        model=load_model(rows.base, nf4=True),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=round(tokens_a_step / mean),
            max_steps=config.max_steps,
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, round(config.warmup * config.max_steps)),
            weight_decay=0.0,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=config.seed,
        ),
        train_dataset=data,
        processing_class=rows.tokenizer,
        peft_config=LoraConfig(r=config.r, lora_alpha=config.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )
    trainer.train()
    tokens = max(int(float(line["num_tokens"])) for line in trainer.state.log_history if "num_tokens" in line)
    score = dev_score(trainer.model, rows.dev, pad=int(rows.tokenizer.pad_token_id), tokens=config.tokens_per_step)
    return Measured(took[SKIPPED:], tokens, score.loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "workbench" / "peers")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    at_hand(args.home)
    from workbench.students.settings import TrainConfig

    rows = Rows()
    # a token counts alike in both: TRL knows no other way
    config = TrainConfig(max_steps=args.steps, lr=1.5e-3, balance=0.0, epochs=100, checkpoint_seconds=3600)
    ratios, apart = list[float](), list[float]()
    for turn in range(args.repeat):
        random.seed(turn)
        seeded = config.model_copy(update={"seed": turn})
        with tempfile.TemporaryDirectory() as folder:
            mine = ours(rows, seeded, Path(folder))
            tell("the workbench", mine, args.steps)
            theirs = trls(rows, seeded, Path(folder), mine.tokens / args.steps)
            tell("TRL", theirs, args.steps)
        ratios.append((median(theirs.seconds) / theirs.tokens) / (median(mine.seconds) / mine.tokens))
        apart.append(mine.loss - theirs.loss)
    print(f"tokens a second: {median(ratios):.2f} times TRL's ({min(ratios):.2f} to {max(ratios):.2f})")
    error = f", standard error {stdev(apart) / len(apart) ** 0.5:.3f}" if len(apart) > 1 else ""
    print(f"loss on dev, ours less TRL's: {fmean(apart):+.3f}{error}")


def tell(name: str, one: Measured, steps: int) -> None:
    print(f"{name:13} {median(one.seconds):.3f} s a step, {one.tokens / steps:.0f} tokens a step, "
          f"dev loss {one.loss:.3f} after {one.tokens:,} tokens", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
