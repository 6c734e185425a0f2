"""The verbs that are about teachers: what they cost, how good they are, how they are asked, what their terms are."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from workbench import preflight, prices, terms
from workbench.commands import settings, typed
from workbench.config import Config, load_config
from workbench.declaration import Task
from workbench.errors import ConfigError, TeacherError, WorkbenchError
from workbench.store import RunLock

if TYPE_CHECKING:
    from workbench.ledger import Ledger


def estimate(task: Task, config: Config, ask: int) -> None:
    """At most what a run asks of the teacher, from the prompts as they would be sent, and from `ask` real requests."""
    from workbench.stages import estimate as stage

    preflight.settings(task, config)
    preflight.names(config)
    rates = stage.GUESSED
    if ask:
        with _ledger("estimate") as ledger:
            rates = stage.measured(task, config, ledger, ask)
    print("\n".join([*stage.told(stage.planned(task, config), config, rates), *prices.unknown(config)]))


def teachers(task: Task, named: Sequence[str], rows: int, sets: Sequence[str], file: Path | None = None) -> None:
    """Each teacher's figures on dev, and the one to take. One that fails is told and left out. Raises ConfigError where one is
    misspelled."""
    from workbench.stages import roster

    configs, found = [], []
    for each in dict.fromkeys(named):  # before the command is written down in the lock: an address may hold a password
        model, at, url = each.partition("@http")
        if not at and "@" in each and not each.startswith("hf:") and not Path(each).exists():
            name = each.partition("@")[0]  # what follows may hold a password
            raise ConfigError(
                f"--teacher {name}@...: the address behind the @ lacks https://", f"as in {name}@https://HOST/v1"
            )
        more = [f"teacher.base_url=http{url}"] if at else []
        configs.append((each, settings(task, "", [*sets, *more], file=file, teacher=model, default="full")))
    with _ledger("teachers") as ledger:
        for each, config in configs:
            try:
                found.append(roster.tried(task, config, ledger, rows))
            except WorkbenchError as error:
                print(f"{each}: {error}\n{error.hint}".strip(), file=sys.stderr)
    if not found:
        raise TeacherError("no teacher could be measured", "look at what was told of each", kind="refused", fatal=True)
    print("\n".join(roster.told(found)))
    print(roster.recommended(found, task.floor)[1])


def tune_teacher(task: Task, config: Config, optimizer: str, calls: int, rows: int) -> None:
    """A prompt for the teacher by one of dspy's optimizers, and what it gains on dev."""
    from workbench.stages import tune

    if optimizer not in get_args(tune.Optimizer):
        raise ConfigError(f"--optimizer {optimizer}: there is none", f"there are {', '.join(get_args(tune.Optimizer))}")
    file = Path.cwd() / "programs" / f"{task.name}-{optimizer}.json"
    with _ledger("tune-teacher") as ledger:
        found = tune.tuned(task, config, ledger, cast(tune.Optimizer, optimizer), calls, rows, file)
    print("\n".join(tune.told(found, typed(task.name, str(task.file)))))


@contextmanager
def _ledger(verb: str) -> "Iterator[Ledger]":
    """The project's, while no run has it; what was repaired in it is told."""
    from workbench.ledger import Ledger

    home = Path.cwd() / ".workbench"
    with RunLock(home), Ledger(home / "ledger.sqlite", run=verb) as ledger:
        if ledger.notice:
            print(ledger.notice, file=sys.stderr)
        yield ledger


def licences(teacher: str, sets: list[str]) -> None:
    """The table of terms, or what it says of one teacher."""
    asked = (
        load_config("quick", sets=tuple(sets), teacher={"model": teacher} if teacher else {}).teacher
        if teacher or sets
        else None
    )
    for line in terms.described(Path.cwd(), asked):
        print(line)
