"""The walk: for each stage its key, then run it or skip it. Has never heard of torch. What a key is made of: plan.py."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench.config import Config
from workbench.declaration import Task
from workbench.ledger import Ledger
from workbench.licences import Policy
from workbench.models import cache_dir
from workbench.plan import Done, Stage, code_digest, inputs_of, key_of, label, made_of, stages
from workbench.stages.context import Context
from workbench.store import Artifact, Store, empty


def walk(
    task: Task, config: Config, root: Path, *, until: str = "", force: str = "", dry: bool = False,
    say: Callable[[str], None], done: Callable[[Done], None], run: str = "", terms: tuple[Policy, ...] = (),
) -> list[Done]:  # fmt: skip
    """Run or skip each stage up to `until`. `root` is the project's .workbench folder; `done` hears of each stage;
    `terms`: of the teachers, as they were settled."""
    store, finished, code = Store(root), dict[str, Done](), code_digest(task)  # once: it is what is loaded that runs
    with Ledger(root / "ledger.sqlite", run=run) as ledger:
        if ledger.notice:
            say(ledger.notice)
        kept, ended = 1, False
        for stage in stages(config):
            if ended and stage.round > 1:  # that round is not walked any more
                if stage.label == until:
                    break
                continue
            needs = inputs_of(stage, kept)
            parts = made_of(stage, code, config, {name: finished[one].artifact for name, one in needs.items()})
            key = key_of(stage, parts)
            artifact = store.find(stage.name, key) if key else None
            ran = artifact is None or force in (stage.name, stage.label)
            if ran and not dry:
                inputs = {name: finished[one].artifact.path for name, one in needs.items()}  # type: ignore[union-attr]
                if artifact is not None:
                    store.discard(stage.name, key)
                say(f"{stage.label}: runs")
                context = Context(task, config, inputs, root, ledger, cache_dir(), say, stage.round, terms)
                artifact = _run(stage, key, parts, store, context)
            found = Done(stage, key, None if dry and ran else artifact, ran, parts)
            finished[stage.label] = found
            if stage.name == "export" and stage.round > 1 and found.artifact is not None:
                was, now = finished[label("export", kept)].dev_exact, found.dev_exact
                ended = now <= was
                kept = kept if ended else stage.round
                if not dry:
                    say(f"round {stage.round}: dev exact {was:.1f} -> {now:.1f}{', no gain: the rounds end' * ended}")
            found.kept = kept
            done(found)
            if stage.label == until:
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
