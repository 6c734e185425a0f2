"""Adapter and base -> plain weights: on the original base and on the base as training saw it; the best on dev is kept.

Each is scored with its weights rounded to the grid of `distil.grid`, as a file without an importance matrix has them: what is
best unrounded may be worth little in a file of four bits. Where the last steps were trained with rounded weights, their adapter
stands beside the best one of the steps before.
"""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

from workbench import models
from workbench.config import Config
from workbench.stages.context import Context, read_json, write_json
from workbench.stages.train import pairs
from workbench.students.settings import ADAPTER, UNROUNDED, DistilConfig

ROUNDED = "rounded"  # an adapter that was trained for the grid
SEEN: Literal["quantized"] = "quantized"  # on the base as training saw it
BASE: Literal["base"] = "base"  # on the original one
REPORT = "merge.json"


class Way(NamedTuple):
    """An adapter, and the base that it is added to."""

    adapter: Path
    onto: Literal["quantized", "base"]


def run(context: Context) -> None:
    """Writes weights/ (a Hugging Face folder) and merge.json."""
    from workbench.students.grid import GRIDS
    from workbench.students.load import prepare_base
    from workbench.students.merge import dev_exact, merge

    config = context.config
    base = prepare_base(models.path_or_name(config.student.model), context.cache / "students")
    dev = pairs(context.task, context.examples("dev"))
    ways = ways_of(config, context.inputs["train"])
    grid = GRIDS[config.distil.grid]
    scores: dict[str, tuple[float, float]] = {}
    for name, way in ways.items():
        folder = merge(base, way.adapter, context.out / name, onto=way.onto)
        scores[name] = dev_exact(folder, dev, grid)
    best = max(scores, key=lambda name: (scores[name][0], -scores[name][1]))
    weights = (context.out / best).rename(context.out / "weights")
    if (made_of := models.origin(config.student.model)) in models.CATALOGUE:
        (weights / models.ORIGIN).write_text(made_of + "\n", encoding="utf-8")
    for name in ways:
        if name != best:
            shutil.rmtree(context.out / name)
    found = {name: {"dev_exact": exact, "dev_loss": loss} for name, (exact, loss) in scores.items()}
    write_json(context.out / REPORT, {"kept": best, "scores": found, "grid": config.distil.grid})
    context.say(f"merge: {told(context.out)}")


def ways_of(config: Config, trained: Path) -> dict[str, Way]:
    """By name. What was rounded in training is one sum and no other; there may have been no step before it."""
    seen = SEEN if config.train.quantize_base == "nf4" else BASE
    rounded = read_json(trained / "summary.json").get("rounded", False)
    plain = trained / (UNROUNDED if rounded else ADAPTER)
    ways = {ROUNDED: Way(trained / ADAPTER, seen)} if rounded else {}
    if plain.is_dir():
        ways |= {name: Way(plain, name) for name in (seen, BASE)}
    return ways


def kept_rounded(merged: Path) -> bool:
    """Whether a merge's weights are those that were trained for the grid."""
    return bool(read_json(merged / REPORT)["kept"] == ROUNDED)


def as_kept(distil: DistilConfig, merged: Path) -> DistilConfig:
    """What the weights were trained by: without a last mile, where the adapter of before it was kept."""
    return distil if kept_rounded(merged) else distil.model_copy(update={"last_mile": 0.0})


def told(merged: Path) -> str:
    """What was kept, and how each did on dev, in a line."""
    found = read_json(merged / REPORT)
    grid, kept, scores = found.get("grid", ""), found["kept"], found["scores"]
    adapter = "the adapter of before the last mile" if ROUNDED in scores else "the adapter"
    names = {
        ROUNDED: "the adapter of the last mile",
        SEEN: f"{adapter} on the base in NF4",
        BASE: f"{adapter} on the base",
    }
    exact = [
        f"{names[name]} {100 * scores[name]['dev_exact']:.1f}"
        for name in sorted(scores, key=lambda name: bool(name != kept))
    ]
    return f"{', '.join(exact)} % exact on dev{f', rounded to the {grid} grid' if grid else ''}"
