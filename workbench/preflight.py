"""What is looked at before a run begins, and in a dry run: data, models, files, keys. Nothing is fetched, loaded or asked."""

from collections.abc import Collection, Sequence, Set
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench import models, plan
from workbench.config import Config, TeacherConfig
from workbench.declaration import ASKING, Task
from workbench.edge.quantizer import QUANTS
from workbench.errors import ConfigError
from workbench.ledger import Ledger
from workbench.stages import examples
from workbench.stages.attempt import try_method
from workbench.stages.context import Context
from workbench.stages.launch import try_launch
from workbench.teachers.build import check_name, key_of


def settings(task: Task, config: Config) -> None:
    """Whether they go with the task and with each other. Raises ConfigError."""
    unknown = [quant for quant in config.export.quants if quant not in QUANTS]
    if unknown:
        raise ConfigError(f"export.quants: there is no {unknown[0]!r}", f"there are {', '.join(QUANTS)}")
    program, mode = config.shots.program, config.shots.mode
    if program and not Path(program).is_file():
        raise ConfigError(f"shots.program: there is no file {program}", "`workbench tune-teacher TASK` writes one")
    if program and mode not in ("auto", "program"):
        raise ConfigError(
            f"shots.program: with shots.mode={mode} it is not tried",
            "add --set shots.mode=auto to try it beside the plain blocks, or --set shots.mode=program",
        )
    asked = [each.model for each in config.teachers]
    by_name: dict[str, Collection[str]] = {
        "runtime.per_teacher": config.runtime.per_teacher,
        "select.weights": config.select.weights,
    }
    for setting, named in by_name.items():
        for name in named:
            if name not in asked:
                raise ConfigError(f"{setting}: no teacher is called {name}", f"there are {', '.join(asked)}")
    try_method(task, config)
    try_launch(config)


def data(task: Task, config: Config) -> None:
    """Reads all rows, as the first stage does. Raises DataError."""
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        examples.run(Context(task, config, {}, Path(folder), ledger, Path(folder), say=lambda text: None))


def names(config: Config, until: str = "") -> None:
    """Whether all that the stages up to `until` rest on can be a model. Raises ModelError."""
    sections = sections_until(until)
    if "student" in sections:
        models.known(config.student.model)
    if "distil" in sections:
        for name in filter(None, (config.distil.parent, config.distil.assistant)):
            models.known(name)
    for each in _asked(config, sections):
        check_name(each)


def keys(task: Task, config: Config, to_run: Set[str]) -> None:
    """Whether the keys are there that the stages `to_run` need. Raises TeacherError."""
    samples = "sample" in to_run and ASKING & set(task.sources)
    chooses = "shots" in to_run and (config.shots.mode == "auto" or task.floor)
    if samples or chooses or "evaluate" in to_run:
        for each in config.teachers if samples else (config.teacher,):
            if each.base_url:
                key_of(each)


def needed(config: Config, until: str) -> list[str]:
    """The models that the stages up to `until` rest on: a wrong name is told, and a file fetched, before the teacher is
    asked for anything."""
    sections = sections_until(until)
    named = [config.student.model] if "student" in sections else []
    return named + [
        each.model for each in _asked(config, sections) if not each.base_url and not each.model.startswith("hf:")
    ]


def _asked(config: Config, sections: Set[str]) -> Sequence[TeacherConfig]:
    """The teachers that stages which look at these sections may ask."""
    return config.teachers if "pool" in sections else (config.teacher,) if "teacher" in sections else ()


def sections_until(until: str) -> set[str]:
    """Of the config, those that the stages up to `until` look at."""
    last = next((place for place, stage in enumerate(plan.STAGES) if stage.name == until), len(plan.STAGES))
    return {section for stage in plan.STAGES[: last + 1] for section in stage.sections}
