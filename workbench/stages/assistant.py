"""A model between teacher and student (Mirzadeh et al. 2020, teacher assistants, arXiv:1902.03393): it learns the shard's text
as the student would, in each round with as many steps and minutes as the student has in all. Then `capture` has it read the
rows in the teacher's place.
"""

import shutil
from dataclasses import replace

from workbench.config import Config, RoundsConfig
from workbench.stages import merge, train
from workbench.stages.context import Context
from workbench.students.settings import DistilConfig


def run(context: Context) -> None:
    """Writes train/ and merge/, as the stages of these names do."""
    config = trained_as(context.config)
    trained, merged = context.out / "train", context.out / "merge"
    if not (trained / "summary.json").is_file():
        trained.mkdir(exist_ok=True)
        train.run(replace(context, config=config, out=trained))
    shutil.rmtree(merged, ignore_errors=True)  # half of one, by a run that was killed
    merged.mkdir()
    merge.run(replace(context, config=config, inputs={**context.inputs, "train": trained}, out=merged))


def trained_as(config: Config) -> Config:
    """The config of a run in which the assistant is the student, and learns the text."""
    changed = {
        "student": config.student.model_copy(update={"model": config.distil.assistant}),
        "train": config.train.model_copy(update={"resplit": None}),
        "distil": DistilConfig(method="sft", grid="Q8_0"),  # it reads unrounded: the merge is chosen by the finer grid
        "rounds": RoundsConfig(),
    }
    return config.model_copy(update=changed)
