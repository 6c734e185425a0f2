"""The walk: for each stage its key, then run it or skip it. Has never heard of torch.

A stage's key is made of its version, its slice of the config, the digests of its inputs' contents, the task's code where
it uses it, and the versions of the libraries that it rests on. Equal key, equal artifact: it is not run again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from workbench.config import Config
from workbench.digest import tree_digest
from workbench.edge.native import runtime_version
from workbench.ledger import Ledger
from workbench.models import cache_dir
from workbench.stages.context import Context
from workbench.store import Artifact, Store, empty, stage_key
from workbench.task import Task


class Stage(NamedTuple):
    """`sections` of the config and `libraries` are in the key; `code`: so are the task's file and the validators."""

    name: str
    version: int
    needs: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    code: bool = True
    resumes: bool = False


TRAINING = ("torch", "transformers", "peft", "bitsandbytes")
STAGES = (
    Stage("examples", 1),
    Stage("shots", 2, ("examples",), ("teacher", "shots")),
    Stage("sample", 2, ("examples", "shots"), ("teacher", "shots", "sample")),
    Stage("select", 1, ("examples", "sample"), ("select",), ("datasketch",)),
    Stage(
        "train",
        2,
        ("examples", "select"),
        ("student", "train"),
        TRAINING,
        False,
        True,
    ),
    Stage(
        "merge",
        1,
        ("examples", "train"),
        ("student", "train"),
        TRAINING,
        False,
    ),
    Stage("export", 1, ("examples", "select", "merge"), ("teacher", "student", "export"), ("xllamacpp", "cyllama")),
    Stage("evaluate", 1, ("examples", "shots", "export"), ("teacher", "shots", "student", "evaluate"), ("xllamacpp",)),
)


@dataclass
class Done:
    """What became of a stage."""

    stage: Stage
    key: str
    artifact: Artifact | None  # None in a dry run, where the stage would run
    ran: bool
    made_of: dict[str, Any]


def walk(
    task: Task, config: Config, root: Path, *, until: str = "", force: str = "", dry: bool = False,
    say: Callable[[str], None], done: Callable[[Done], None], run: str = "",
) -> list[Done]:  # fmt: skip
    """Run or skip each stage up to `until`. `root` is the project's .workbench folder; `done` hears of each stage."""
    store, finished, code = Store(root), dict[str, Done](), code_digest(task)  # once: it is what is loaded that runs
    with Ledger(root / "ledger.sqlite", run=run) as ledger:
        for stage in STAGES:
            made_of, key = _key(stage, code, config, finished)
            artifact = store.find(stage.name, key) if key else None
            ran = artifact is None or stage.name == force
            if ran and not dry:
                inputs = {name: finished[name].artifact.path for name in stage.needs}  # type: ignore[union-attr]
                if artifact is not None:
                    store.discard(stage.name, key)
                say(f"{stage.name}: runs")
                artifact = _run(
                    stage, key, made_of, store, Context(task, config, inputs, root, ledger, cache_dir(), say, run)
                )
            finished[stage.name] = Done(stage, key, None if dry and ran else artifact, ran, made_of)
            done(finished[stage.name])
            if stage.name == until:
                break
    return list(finished.values())


def _key(stage: Stage, code: str, config: Config, finished: Mapping[str, Done]) -> tuple[dict[str, Any], str]:
    """What the key is made of, and the key; empty while an input is not there yet (a dry run)."""
    inputs = {name: finished[name].artifact for name in stage.needs}
    made_of: dict[str, Any] = {
        "config": {name: getattr(config, name).model_dump(mode="json") for name in stage.sections},
        "inputs": {name: artifact.digest if artifact else "" for name, artifact in inputs.items()},
        "code": code if stage.code else "",
        "environment": {name: runtime_version() if name == "xllamacpp" else version(name) for name in stage.libraries},
    }
    return made_of, stage_key(stage.name, stage.version, **made_of) if all(inputs.values()) else ""


def code_digest(task: Task) -> str:
    """Of the task's file, its data and the validators it was declared with. That data is missing is told where it is read."""
    modules = {type(validator).__module__ for validator in task.validators}
    files = [Path(str(import_module(name).__file__)) for name in modules if not name.startswith("workbench_task_")]
    data = [*(task.data.root / name for name in task.data.files.values()), *([task.corpus] if task.corpus else [])]
    return tree_digest([task.file, *(path for path in data if path.is_file()), *files])


def _run(stage: Stage, key: str, made_of: dict[str, Any], store: Store, context: Context) -> Artifact:
    with store.create(stage.name, key, made_of, keep=stage.resumes) as folder:
        if not stage.resumes:
            empty(folder)  # what a killed run left there would be published with the rest
        context.out = folder
        import_module(f"workbench.stages.{stage.name}").run(context)
    artifact = store.find(stage.name, key)
    assert artifact is not None, "a stage that ran is in the store"
    return artifact
