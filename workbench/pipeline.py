"""The walk: for each stage its key, then run it or skip it. Has never heard of torch. What a key is made of: plan.py."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench.config import Config
from workbench.declaration import Task
from workbench.ledger import Ledger
from workbench.models import cache_dir
from workbench.plan import STAGES, Stage, code_digest, key_of, made_of
from workbench.stages.context import Context
from workbench.store import Artifact, Store, empty


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
            parts = made_of(stage, code, config, {name: finished[name].artifact for name in stage.needs})
            key = key_of(stage, parts)
            artifact = store.find(stage.name, key) if key else None
            ran = artifact is None or stage.name == force
            if ran and not dry:
                inputs = {name: finished[name].artifact.path for name in stage.needs}  # type: ignore[union-attr]
                if artifact is not None:
                    store.discard(stage.name, key)
                say(f"{stage.name}: runs")
                artifact = _run(stage, key, parts, store, Context(task, config, inputs, root, ledger, cache_dir(), say))
            finished[stage.name] = Done(stage, key, None if dry and ran else artifact, ran, parts)
            done(finished[stage.name])
            if stage.name == until:
                break
    return list(finished.values())


def _run(stage: Stage, key: str, parts: dict[str, Any], store: Store, context: Context) -> Artifact:
    with store.create(stage.name, key, parts, keep=stage.resumes) as folder:
        if not stage.resumes:
            empty(folder)  # what a killed run left there would be published with the rest
        context.out = folder
        import_module(f"workbench.stages.{stage.name}").run(context)
    artifact = store.find(stage.name, key)
    assert artifact is not None, "a stage that ran is in the store"
    return artifact
