"""A model between teacher and student (Mirzadeh et al. 2020, teacher assistants, arXiv:1902.03393): it learns the shard's text
as the student would, in each round with `distil.assistant_share` of the steps and minutes that the student has in all. Then
`capture` has it read the rows in the teacher's place, or `label` has it answer other inputs: these are not yet in the shard
that it learns, which is made here.
"""

import shutil
from dataclasses import replace
from functools import partial

from workbench.config import Config, RoundsConfig
from workbench.stages import merge, select, train
from workbench.stages.context import Context, Say
from workbench.students.settings import DistilConfig


def run(context: Context) -> None:
    """Writes train/ and merge/, and select/ where there is no shard yet, as the stages of these names do."""
    config = trained_as(context.config)
    context = replace(context, say=partial(_prefixed, context.say))
    if "select" not in context.inputs:
        shard = context.out / "select"
        shard.mkdir(exist_ok=True)
        select.run(replace(context, out=shard))
        context = replace(context, inputs={**context.inputs, "select": shard})
    trained, merged = context.out / "train", context.out / "merge"
    if not (trained / "summary.json").is_file():
        trained.mkdir(exist_ok=True)
        train.run(replace(context, config=config, out=trained))
    shutil.rmtree(merged, ignore_errors=True)  # half of one, by a run that was killed
    merged.mkdir()
    merge.run(replace(context, config=config, inputs={**context.inputs, "train": trained}, out=merged))


def _prefixed(say: Say, text: str) -> None:
    say(f"assistant: {text}")


def trained_as(config: Config) -> Config:
    """The config of a run in which the assistant is the student, and learns the text."""
    train, share = config.train, config.distil.assistant_share
    shares = {
        "epochs": share * train.epochs,
        "max_steps": train.max_steps and max(1, round(share * train.max_steps)),
        "max_minutes": train.max_minutes and share * train.max_minutes,
        "min_steps": round(share * train.min_steps),
        "resplit": None,
    }
    changed = {
        "student": config.student.model_copy(update={"model": config.distil.assistant}),
        "train": train.model_copy(update=shares),
        "distil": DistilConfig(method="sft", grid="Q8_0"),  # it reads unrounded: the merge is chosen by the finer grid
        "rounds": RoundsConfig(),
    }
    return config.model_copy(update=changed)
