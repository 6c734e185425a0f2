"""The stages in their order, round by round, and what each one's key is made of.

A key is made of the stage's version, its slice of the config, the digests of its inputs' contents, the task's code where it
uses it, the versions of the libraries it rests on, and the size and time of model files that are no part of the catalogue.
Raise a stage's version when its own code comes to do something else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from workbench import methods, models, registry
from workbench.config import Config, PoolConfig, RoundsConfig
from workbench.declaration import Task
from workbench.digest import tree_digest
from workbench.edge.native import runtime_version
from workbench.methods import Method
from workbench.stages.context import read_json
from workbench.store import Artifact, stage_key
from workbench.students.settings import DistilConfig


class Stage(NamedTuple):
    """`sections` of the config and `libraries` are in the key; `code`: so are the task's file and the validators. `before`:
    what it takes of the round before its own, where there is one."""

    name: str
    version: int
    needs: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    code: bool = True
    resumes: bool = False
    before: tuple[str, ...] = ()
    round: int = 1

    @property
    def label(self) -> str:
        return label(self.name, self.round)


def label(name: str, round_: int) -> str:
    """What a stage is called among those of all rounds."""
    return name if round_ == 1 else f"{name}.{round_}"


@dataclass
class Done:
    """What became of a stage. `kept`: the round that ships, as things stand after it."""

    stage: Stage
    key: str
    artifact: Artifact | None  # None in a dry run, where the stage would run
    ran: bool
    made_of: dict[str, Any]
    kept: int = 1

    @property
    def dev_exact(self) -> float:
        """Of the file that ships, where it is an export that is there."""
        assert self.artifact is not None, "it is there"
        made = read_json(self.artifact.path / "export.json")
        return next(float(item["dev_exact"]) for item in made["files"] if item["name"] == made["chosen"])


TRAINING = ("torch", "transformers", "peft", "bitsandbytes")
STAGES = (
    Stage("examples", 2),
    Stage("shots", 6, ("examples",), ("teacher", "shots")),
    Stage(
        "sample",
        13,
        ("examples", "shots"),
        ("teacher", "shots", "sample", "leaks", "rounds", "pool"),
        before=("sample", "export"),
    ),
    Stage("select", 8, ("examples", "sample"), ("select", "leaks", "rounds"), ("datasketch", "scikit-learn")),
    Stage(
        "train",
        8,
        ("examples", "select"),
        ("student", "train", "rounds", "distil"),
        TRAINING,
        code=False,
        resumes=True,
        before=("train",),
    ),
    Stage("merge", 5, ("examples", "train"), ("student", "train", "rounds", "distil"), TRAINING, code=False),
    Stage(
        "export",
        5,
        ("examples", "select", "merge"),
        ("teacher", "student", "export", "rounds", "distil"),
        ("xllamacpp", "cyllama"),
    ),
    Stage("evaluate", 5, ("examples", "shots", "export"), ("teacher", "shots", "student", "evaluate"), ("xllamacpp",)),
)
# in a key only where they are other than this
WHERE_SET = {"rounds": RoundsConfig(), "pool": PoolConfig(), "distil": DistilConfig()}
CAPTURE = Stage(  # before the training, where that learns from what the teacher thinks of the rows, or of the attempts
    "capture",
    4,
    ("examples", "shots", "select"),
    ("teacher", "shots", "distil", "rounds", "pool"),
    ("torch", "transformers"),
)
ASSISTANT = Stage(  # before the capture, where another model reads the rows in the teacher's place
    "assistant",
    4,
    ("examples", "select"),
    ("train", "distil"),
    TRAINING,
    code=False,
    resumes=True,
)
LABEL = Stage(  # before the selection, where an assistant answers what no teacher's answer passed for
    "label",
    1,
    ("examples", "sample", "assistant"),
    ("sample", "leaks", "student", "distil", "rounds"),
    ("torch", "transformers"),
)
LABELLER = ASSISTANT._replace(  # it learns before there is a shard, and makes one for itself
    needs=("examples", "sample"), sections=("select", "leaks", *ASSISTANT.sections), code=True
)
ATTEMPT = Stage(  # before the sampling of a later round, where the student answers first
    "attempt", 2, ("examples",), ("sample", "leaks", "student", "distil", "rounds"), ("xllamacpp",),
    before=("sample", "select", "export"),
)  # fmt: skip
LOOKS_AT = {  # of [distil], those stages that need not run again where the loss or the grid is another
    "assistant": ("assistant", "assistant_share"),
    "attempt": ("method", "attempts", "warmth"),
    "capture": ("method", "k", "rows", "assistant"),
    "label": ("attempts", "assistant"),
}
AGAIN = ("attempt", "sample", "select", "assistant", "label", "capture", "train", "merge", "export")  # in each round


def stages(config: Config) -> tuple[Stage, ...]:
    """All that a run may walk through: a round that gains nothing ends the rounds."""
    method, assisted = methods.named(config.distil.method), bool(config.distil.assistant)
    first, later = (_round(method, number, assisted) for number in (1, 2))
    again = [
        stage._replace(round=number)
        for number in range(2, config.rounds.count + 1)
        for stage in later
        if stage.name in AGAIN
    ]
    return (*first[:-1], *again, first[-1])


def _round(method: Method, number: int, assisted: bool) -> list[Stage]:
    """The stages of one round, those that only its method needs among them."""
    attempts = bool(method.attempts) and number > 1
    captures = attempts if method.captures == "attempts" else bool(method.captures)
    to_shard = (STAGES[2], LABELLER, LABEL, STAGES[3]) if method.labels else (*STAGES[2:4], ASSISTANT)
    found = {stage.name: stage for stage in (*STAGES[:2], ATTEMPT, *to_shard, CAPTURE, *STAGES[4:])}

    def reads(name: str, what: str) -> None:
        found[name] = found[name]._replace(needs=(*found[name].needs, what))

    if attempts and method.attempts == "unanswered":
        reads("sample", "attempt")
        found["train"] = found["train"]._replace(before=("train", "select"))
    elif attempts:
        reads("train", "attempt")
        reads("capture", "attempt")
    else:
        del found["attempt"]
    if captures:
        reads("train", "capture")
    else:
        del found["capture"]
    if method.labels:
        reads("select", "label")
    if captures and assisted:
        reads("capture", "assistant")
    elif not method.labels:
        del found["assistant"]
    return list(found.values())


def inputs_of(stage: Stage, kept: int) -> dict[str, str]:
    """The labels of the stages whose artifacts it needs, by the names it knows them by. `kept`: the round that ships so far."""
    mine = stage.round if stage.name in AGAIN else kept
    found = {name: label(name, mine if name in AGAIN else 1) for name in stage.needs}
    if stage.round > 1:
        found |= {f"{name} before": label(name, stage.round - 1) for name in stage.before}
    return found


def made_of(stage: Stage, code: str, config: Config, inputs: Mapping[str, Artifact | None]) -> dict[str, Any]:
    """What the stage's key is made of; the digest of an input that is not there yet is empty."""
    slices = {name: _slice(stage, config, name) for name in stage.sections}
    sections = [name for name, value in slices.items() if name not in WHERE_SET or value != WHERE_SET[name]]
    named: dict[str, str] = {name: getattr(config, name).model for name in ("teacher", "student") if name in sections}
    if "distil" in sections and config.distil.parent:
        named["parent"] = config.distil.parent
    if "distil" in sections and config.distil.assistant:
        named["assistant"] = config.distil.assistant
    if "pool" in sections:
        named |= {f"pool {member.model}": member.model for member in config.pool.teachers}
    files: dict[str, str] = {name: models.local_identity(model) for name, model in named.items()}
    if "shots" in stage.sections and (program := Path(config.shots.program)).is_file():
        files["program"] = tree_digest([program])
    if "distil" in sections and (method := methods.named(config.distil.method)).version > 1:
        files["method"] = f"{method.name} {method.version}"
    if stage.name == "train" and (share := methods.named(config.distil.method).rounded(config.distil)):
        files["rounded"] = f"{config.distil.grid} {share:g}, beside the best of before"
    libraries = {name: runtime_version() if name == "xllamacpp" else version(name) for name in stage.libraries}
    return {
        "config": {name: slices[name].model_dump(mode="json") for name in sections},
        "inputs": {name: artifact.digest if artifact else "" for name, artifact in inputs.items()},
        "code": code if stage.code else "",
        "environment": libraries | {name: identity for name, identity in files.items() if identity},
    }


def _slice(stage: Stage, config: Config, section: str) -> BaseModel:
    """What the stage looks at of a section: the whole, but for these."""
    if section == "train" and stage.name == "assistant":  # whose words stay whole
        return config.train.model_copy(update={"resplit": None})
    if section == "distil" and stage.name in LOOKS_AT:
        return DistilConfig(**{name: getattr(config.distil, name) for name in LOOKS_AT[stage.name]})
    if section == "pool" and stage.name != "capture":  # who asks nobody, and how much one counts who reads
        return config.pool.asked
    whole: BaseModel = getattr(config, section)
    return whole


def key_of(stage: Stage, parts: Mapping[str, Any]) -> str:
    """The stage's key; empty while an input is not there yet (a dry run)."""
    return stage_key(stage.name, stage.version, **parts) if all(parts["inputs"].values()) else ""


def code_digest(task: Task) -> str:
    """Of the task's file, the modules beside it where it is of a package, its data, and the validators it was declared with,
    their own `files` among them. That data is missing is told where it is read."""
    modules = {type(validator).__module__ for validator in task.validators}
    files = {Path(str(import_module(name).__file__)) for name in modules if not name.startswith("workbench_task_")}
    if (
        "." in task.module and task.file.parent != registry.builtin_folder()
    ):  # its package's other modules are its own too
        files |= set(task.file.parent.rglob("*.py"))
    data = [task.data.root / name for name in (*task.data.files.values(), task.data.corpus)]
    files |= {path for path in data if path.is_file()}
    files |= {path for validator in task.validators for path in getattr(validator, "files", ())}
    return tree_digest({path.resolve() for path in (task.file, *files)})
