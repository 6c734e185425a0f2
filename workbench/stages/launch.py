"""A training in several processes: `accelerate launch` starts them by a config of its own, the first of them tells how it goes.

    accelerate launch --config_file FILE -m workbench.stages.launch JOB

They end when the run that started them does, however that ends.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from workbench.config import Config
from workbench.errors import ConfigError, StudentError, WorkbenchError
from workbench.machine import end_with
from workbench.stages.job import Job, learn
from workbench.students.settings import Progress

PARENT = "WORKBENCH_TRAINING_PARENT"  # the run's process
PROGRESS, ERROR = "progress ", "error "
FSDP = "FSDP"
KINDS = ("MULTI_GPU", FSDP, "NO")
LAST_LINES = 12  # of what they said, where they end without a word of ours


class Launch(NamedTuple):
    """A config of accelerate's, and its distributed_type."""

    file: Path
    kind: str


def try_launch(config: Config) -> None:
    """Told before a teacher is paid. Raises ConfigError."""
    name = config.runtime.launch
    if name and config_of(name).kind == FSDP and config.train.dropout:
        raise ConfigError(
            "train.dropout: where a student is spread over processes there is none", "set train.dropout=0"
        )


def config_of(name: str) -> Launch:
    """Of a config that comes with the workbench, or of a file. Raises ConfigError."""
    folder = Path(str(files("workbench") / "launch"))
    shipped = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    found = shipped.get(name, Path(name))
    if not found.is_file():
        raise ConfigError(
            f"runtime.launch: there is no {name}", f"a config of accelerate's, or one of {', '.join(shipped)}"
        )
    told: Any = yaml.safe_load(found.read_text(encoding="utf-8"))
    kind = told.get("distributed_type") if isinstance(told, dict) else None
    if kind not in KINDS or told.get("num_machines", 1) != 1:
        raise ConfigError(
            f"{found}: {kind} on {told.get('num_machines', 1) if isinstance(told, dict) else '?'} machines",
            f"processes of one machine train: distributed_type {', '.join(KINDS)}",
        )
    version = (told.get("fsdp_config") or {}).get("fsdp_version", 1)
    if kind == FSDP and version != 2:
        raise ConfigError(f"{found}: fsdp_version {version}", "FSDP of version 2 is what there is: fsdp_version: 2")
    return Launch(found, kind)


def launched(job: Job, launch: str, progress: Callable[[Progress], None]) -> None:
    """The job, done by as many processes as the config names. Raises ConfigError, and StudentError with what they said."""
    config = config_of(launch).file
    with TemporaryDirectory(prefix="workbench-training-") as folder:
        file = Path(folder) / "job.json"
        file.write_text(job.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "-m"]
        with subprocess.Popen(
            [*command, __name__, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, PARENT: str(os.getpid())},
            start_new_session=True,
        ) as process:
            assert process.stdout is not None, "it is a pipe"
            said: list[str] = []
            told: dict[str, str] = {}
            try:
                for line in process.stdout:
                    if line.startswith(PROGRESS):
                        progress(Progress(*json.loads(line.removeprefix(PROGRESS))))
                    elif line.startswith(ERROR):
                        told = told or json.loads(line.removeprefix(ERROR))
                    else:
                        said = [*said, line][-LAST_LINES:]
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if told:
            raise StudentError(told["message"], told["hint"])
        if process.returncode:
            raise StudentError(
                f"the training processes ended with {process.returncode}:\n{''.join(said).strip()}",
                "without runtime.launch one process trains",
            )


def main() -> None:
    """One of the processes."""
    end_with(int(os.environ[PARENT]))
    from workbench.students.crew import enlisted

    job = Job.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        crew = enlisted()
        learn(job, _tell if crew.leads else _nothing, crew)
    except WorkbenchError as error:
        _say(ERROR, {"message": str(error), "hint": error.hint})
        sys.exit(1)


def _tell(progress: Progress) -> None:
    _say(PROGRESS, progress)


def _say(kind: str, what: Any) -> None:
    """In one piece: all of them write to one pipe."""
    sys.stdout.write(f"{kind}{json.dumps(what)}\n")
    sys.stdout.flush()


def _nothing(_: Any) -> None:
    pass


if __name__ == "__main__":
    main()
