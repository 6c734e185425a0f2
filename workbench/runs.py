"""A run's folder: what was asked, what each stage made, and the report.

runs/<task>/<UTC time>-<short key>/    config.toml (re-runnable), lock.json, events.jsonl, report.html, report.md, expert/
runs/<task>/latest                     repointed when a run has ended well
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, field_validator

from workbench import registry
from workbench.config import Config
from workbench.config_text import without_none
from workbench.digest import digest
from workbench.errors import StoreError
from workbench.licences import Policy
from workbench.plan import CAPTURE, STAGES, Done, label

ENDLESS = "~"  # after every time


class Entry(BaseModel):
    """One stage in lock.json."""

    stage: str
    key: str
    path: str
    digest: str
    ran: bool
    made_of: dict[str, Any]


class Lock(BaseModel):
    """lock.json: what the run was made of, stage by stage."""

    task: str
    file: str
    version: int
    command: str
    started: str
    ended: str = ""
    terms: tuple[Policy, ...] = ()  # of each teacher, as they were read and accepted; empty: none was to be asked
    stages: list[Entry] = []
    kept: int = 1  # the round that ships

    @field_validator("terms", mode="before")
    @classmethod
    def _of_one(cls, terms: Any) -> Any:
        """Runs of before had one teacher."""
        return terms if isinstance(terms, list | tuple) else (terms,) if terms else ()

    def entry(self, stage: str) -> Entry | None:
        """By name that of the round that ships; by label (`sample.2`) any."""
        return self.exactly(label(stage, self.kept)) or self.exactly(stage)

    def exactly(self, label: str) -> Entry | None:
        return next((entry for entry in self.stages if entry.stage == label), None)

    @property
    def artifacts(self) -> dict[str, Path]:
        """Of the round that ships, by the stages' names."""
        names = dict.fromkeys(entry.stage.partition(".")[0] for entry in self.stages)
        return {name: Path(entry.path) for name in names if (entry := self.entry(name)) is not None}


class RunFolder:
    """Made at the start of a run; every stage that ends is written down at once."""

    def __init__(
        self,
        project: Path,
        task: str,
        file: Path,
        version: int,
        config: Config,
        command: str,
        terms: tuple[Policy, ...],
    ) -> None:
        import tomli_w

        now = datetime.now(UTC)
        short = digest(config)[:6]
        self.path = project / "runs" / task / f"{now:%Y%m%dT%H%M%SZ}-{short}"
        self.lock = Lock(
            task=task,
            file=str(file),
            version=version,
            command=command,
            started=now.isoformat(timespec="seconds"),
            terms=terms,
        )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "config.toml").write_text(tomli_w.dumps(without_none(config.model_dump(mode="json"))))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error}", "make room, or run elsewhere") from error
        self._save()

    def say(self, text: str) -> None:
        """A line for events.jsonl."""
        event = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "text": text}
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(event, ensure_ascii=False) + "\n")

    def done(self, done: Done) -> None:
        if done.artifact is None:
            return
        self.lock.stages.append(
            Entry(
                stage=done.stage.label,
                key=done.key,
                path=str(done.artifact.path),
                digest=done.artifact.digest,
                ran=done.ran,
                made_of=done.made_of,
            )
        )
        self.lock.kept = done.kept
        self._save()

    def close(self) -> None:
        """Marks the end, copies the expert out of the store and repoints `latest`."""
        self.lock.ended = datetime.now(UTC).isoformat(timespec="seconds")
        self._save()
        export = self.lock.entry("export")
        if export is not None:
            copy_expert(Path(export.path), self.path / "expert")
        pointer = self.path.parent / "latest"
        fresh = pointer.with_name(f".latest.{os.getpid()}")
        fresh.symlink_to(self.path.name)
        fresh.replace(pointer)

    def _save(self) -> None:
        part = self.path / ".lock.json.part"
        part.write_text(self.lock.model_dump_json(indent=1), encoding="utf-8")
        part.replace(self.path / "lock.json")


def find_run(project: Path, name: str) -> Path:
    """A run by path, by task name or file (its latest), or by folder name. Raises StoreError naming what there is."""
    task = _task(name)
    for path in (Path(name), project / "runs" / task / "latest", *project.glob(f"runs/*/{task}")):
        if (path / "lock.json").is_file():
            return path.resolve()
    if own := runs_of(project, task):
        raise StoreError(
            f"no run of {task} has finished: the newest, {own[-1].name}, ended early",
            f"it was begun with `{read_lock(own[-1]).command}`; run the task to its end",
        )
    known = sorted(path.parent.name for path in project.glob("runs/*/latest"))
    raise StoreError(
        f"there is no run {name!r} in {project}",
        f"tasks with a finished run: {', '.join(known)}" if known else "make one with `workbench run TASK`",
    )


def newest_run(project: Path, name: str) -> Path:
    """As `find_run`, but of a task the newest, though it may not have finished."""
    own = runs_of(project, _task(name))
    return own[-1] if own else find_run(project, name)


def _task(name: str) -> str:
    """What was typed; of a task's file the task. Raises TaskError where that declares several."""
    path, _, wanted = name.partition(registry.IN_FILE)
    if wanted or not path.endswith(".py"):
        return wanted or name
    return registry.only(path, [found.name for found in registry.in_file(Path(path))] or [Path(path).stem])


def list_runs(project: Path) -> dict[str, Path]:
    """The folder of every run by its name, the oldest first. The folder that it lies in has the task's name."""
    folders = (path.parent for path in project.glob("runs/*/*Z-*/lock.json"))
    return {folder.name: folder for folder in sorted(folders, key=lambda folder: folder.name)}


def runs_of(project: Path, task: str) -> list[Path]:
    """The oldest first."""
    return [folder for folder in list_runs(project).values() if folder.parent.name == task]


def span(run: Path, stage: str) -> tuple[str, str]:
    """When a stage began and when the next one took over, as the ledger writes times; two empty texts where it did not run."""
    names, begin = {each.name for each in (*STAGES, CAPTURE)}, ""
    for at, text in _events(run / "events.jsonl"):
        teller = text.partition(":")[0]
        if text == f"{stage}: runs":
            begin = at
        elif begin and teller in names and teller != stage:
            return begin, at
    return begin, ENDLESS if begin else ""


def stage_at(run: Path) -> Callable[[str], str]:
    """Which stage ran at a time as the ledger writes it."""
    begun = [(at, text.partition(":")[0]) for at, text in _events(run / "events.jsonl") if text.endswith(": runs")]
    return lambda at: next((stage for begin, stage in reversed(begun) if begin <= at), "(before any)")


def _events(path: Path) -> Iterator[tuple[str, str]]:
    """Time and text of each line; a last one that a kill tore ends them."""
    with contextlib.suppress(FileNotFoundError, ValueError), path.open(encoding="utf-8") as handle:
        for line in handle:
            event = json.loads(line)
            yield event["at"], event["text"]


def read_lock(run: Path) -> Lock:
    """Raises StoreError where lock.json is not there or not whole."""
    try:
        return Lock.model_validate_json((run / "lock.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise StoreError(f"{run / 'lock.json'} is not there, or not whole", "run the task again") from None


def candidates_of(run: Path) -> Path:
    """A run's candidates.jsonl. Raises StoreError where there is none, or nothing in it."""
    entry = read_lock(run).entry("sample")
    if entry is None:
        raise StoreError(
            f"{run.name} did not get as far as its candidates", "run the task again, it goes on from there"
        )
    path = Path(entry.path) / "candidates.jsonl"
    if not path.is_file():
        raise StoreError(f"{path} is not there any more", "run the task again: what is there is kept")
    if not path.stat().st_size:
        raise StoreError(
            f"{run.name} has no candidates: no teacher wrote any",
            'its task wants the source "inverse", "forward" or "corpus"',
        )
    return path


def why(project: Path, run: Path, stage: str) -> str:
    """One sentence: why the stage ran or was skipped, against the run of the same task before it."""
    lock = read_lock(run)
    entry = lock.entry(stage)
    if entry is None:
        names = ", ".join(item.stage for item in lock.stages) or "none, it ended before the first was done"
        if stage in {each.name for each in (*STAGES, CAPTURE)}:
            raise StoreError(f"{run.name} did not get as far as {stage}", f"its stages: {names}")
        raise StoreError(f"{stage!r} is no stage of this run", f"its stages: {names}")
    if not entry.ran:
        return f"{stage} was skipped: nothing it rests on has changed (key {entry.key[:8]})."
    older = (path for path in sorted(run.parent.glob("*Z-*")) if path.name < run.name)
    before = [path for path in older if (path / "lock.json").is_file()]  # a run killed at once has none
    earlier = next((e for path in reversed(before) if (e := read_lock(path).entry(stage)) is not None), None)
    if earlier is None:
        return f"{stage} ran because no run before had got this far."
    if earlier.key == entry.key:
        return f"{stage} ran because it was forced, or its artifact was gone: nothing it rests on has changed."
    return f"{stage} ran because {'; '.join(_changes(earlier.made_of, entry.made_of)) or 'its version changed'}."


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    found = [
        f"{section}.{key}: {was!r} -> {now!r}"
        for section, values in new["config"].items()
        for key, now in values.items()
        if (was := old["config"].get(section, {}).get(key)) != now
    ]
    found += [f"`{name}` changed" for name, value in new["inputs"].items() if old["inputs"].get(name) != value]
    if old["code"] != new["code"]:
        found.append("the task's file, data or validators changed")
    found += [
        f"{name} {old['environment'].get(name)} -> {value}"
        for name, value in new["environment"].items()
        if old["environment"].get(name) != value
    ]
    return found


def copy_expert(export: Path, target: Path) -> None:
    """Out of an export's folder in the store, in the place of what is at `target`."""
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    _link_tree(export / "expert", target)


def _link_tree(source: Path, target: Path) -> None:
    """A copy that shares the model's bytes where the file system can; what people edit in place is theirs alone."""

    def link(a: str, b: str) -> None:
        with contextlib.suppress(OSError):
            if a.endswith(".gguf"):
                os.link(a, b)
                return
        shutil.copyfile(a, b)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=False)
