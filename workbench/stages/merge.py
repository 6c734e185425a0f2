"""Adapter and base -> plain weights: on the original base and on the base as training saw it; the better on dev is kept."""

import shutil
from typing import Literal

from workbench import methods, models
from workbench.stages.context import Context, write_json
from workbench.stages.train import pairs

WAYS: tuple[Literal["quantized", "base"], ...] = ("quantized", "base")


def run(context: Context) -> None:
    """Writes weights/ (a Hugging Face folder) and merge.json."""
    from workbench.students.load import prepare_base
    from workbench.students.merge import dev_exact, merge

    base = prepare_base(models.path_or_name(context.config.student.model), context.cache / "students")
    dev = pairs(context.task, context.examples("dev"))
    ways = WAYS if context.config.train.quantize_base == "nf4" else WAYS[1:]
    if methods.named(context.config.distil.method).rounded(context.config.distil):
        ways = ways[:1]  # what was rounded in training is that sum and no other
    scores: dict[str, tuple[float, float]] = {}
    for way in ways:
        folder = merge(base, context.inputs["train"] / "adapter", context.out / way, onto=way)
        scores[way] = dev_exact(folder, dev)
    best = max(scores, key=lambda way: (scores[way][0], -scores[way][1]))
    weights = (context.out / best).rename(context.out / "weights")
    if (made_of := models.origin(context.config.student.model)) in models.CATALOGUE:
        (weights / models.ORIGIN).write_text(made_of + "\n", encoding="utf-8")
    for way in ways:
        if way != best:
            shutil.rmtree(context.out / way)
    write_json(
        context.out / "merge.json",
        {"kept": best, "scores": {way: {"dev_exact": s[0], "dev_loss": s[1]} for way, s in scores.items()}},
    )
    context.say(f"merge: onto the {best} base, dev exact {100 * scores[best][0]:.1f}")
