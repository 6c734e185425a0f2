"""What a stage is given."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import StoreError
from workbench.ledger import Ledger
from workbench.licences import Policy
from workbench.types import Example

M = TypeVar("M", bound=BaseModel)
Say = Callable[[str], None]


@dataclass
class Context:
    """`inputs` are the folders of the artifacts this stage needs, by stage name, those of the round before as `NAME before`;
    `out` is the folder to write to."""

    task: Task
    config: Config
    inputs: Mapping[str, Path]
    out: Path
    ledger: Ledger
    cache: Path
    say: Say
    round: int = 1
    terms: tuple[Policy, ...] = ()

    def examples(self, split: str) -> list[Example]:
        rows = read_jsonl(self.inputs["examples"] / "examples.jsonl", Example)
        return [row for row in rows if row.split == split]


@contextmanager
def jsonl(path: Path) -> Iterator[Callable[[BaseModel], None]]:
    """Gives what writes one JSON object a line. Raises StoreError on a full disk."""
    with _room(path):
        handle = path.open("w", encoding="utf-8")

    def write(row: BaseModel) -> None:
        with _room(path):
            handle.write(row.model_dump_json() + "\n")

    try:
        yield write
    finally:
        with _room(path):
            handle.close()


def write_jsonl(path: Path, rows: Iterable[BaseModel]) -> None:
    """One JSON object a line. Raises StoreError on a full disk."""
    with jsonl(path) as write:
        for row in rows:
            write(row)


@contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}", "make room, then run the same command again") from error


def read_jsonl(path: Path, model: type[M]) -> Iterator[M]:
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            yield model.model_validate_json(line)


def write_json(path: Path, value: Any) -> None:
    with _room(path):
        path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
