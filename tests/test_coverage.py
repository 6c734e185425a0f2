"""The output space in cells: what falls where, what could be said and is not, and the verb."""

from enum import StrEnum
from pathlib import Path

import pytest
from pydantic import BaseModel
from servers import TeacherServer
from small import here, sampling, write_task

from workbench.outputs import Calls, Record
from workbench.outputs.cells import cells, possible


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


class SetLevel(BaseModel):
    level: Level
    quiet: bool = False


class SetTimer(BaseModel):
    minutes: int
    label: str | None = None


class Ticket(BaseModel):
    level: Level
    order: str | None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([], {"0 calls"}),
        (
            [{"name": "set_timer", "arguments": {"minutes": 45, "label": "the blue one outside"}}],
            {"1 call", "set_timer", "set_timer.minutes 10-99", "set_timer.label 4+ words"},
        ),
        (
            [{"name": "set_level", "arguments": {"level": "low"}}, {"name": "set_timer", "arguments": {"minutes": 7}}],
            {"2 calls", "set_level", "set_level.level=low", "set_timer", "set_timer.minutes 0-9"},
        ),
    ],
)
def test_the_cells_of_a_list_of_calls(value: object, found: set[str]) -> None:
    assert cells(Calls([SetLevel, SetTimer]), value) == found


def test_the_cells_of_a_record() -> None:
    output = Record(Ticket, group_by="level")
    assert cells(output, {"level": "high", "order": "AB-12"}) == {"level=high", "order 1 word"}
    assert set(possible(output.schema())) == {"level=low", "level=high"}


def test_what_could_be_said_is_read_from_the_schema() -> None:
    assert set(possible(Calls([SetLevel, SetTimer]).schema())) == {
        "set_level", "set_level.level=low", "set_level.level=high", "set_level.quiet=true", "set_level.quiet=false",
        "set_timer",
    }  # fmt: skip


def test_the_verb_counts_seeds_then_the_newest_shard(tmp_path: Path) -> None:
    write_task(tmp_path)
    before = here(tmp_path, "coverage", "talk.py")
    assert before.returncode == 0, before.stderr
    first, header, *_ = before.stdout.splitlines()
    assert "seeds and dev alone" in first and header.split() == ["cell", "seeds", "dev"]
    assert _row(before.stdout, "open_app") == [4, 2]
    assert _row(before.stdout, "2 calls") == [1, 0]
    with TeacherServer(tmp_path / "log.jsonl") as server:
        done = here(tmp_path, *sampling(server.base_url), "--until", "select")
    assert done.returncode == 0, done.stdout + done.stderr
    after = here(tmp_path, "coverage", "talk.py").stdout
    seeds, shard, dev = _row(after, "open_app")
    assert (seeds, dev) == (4, 2) and shard > seeds
    assert "in no row at all: none" in after
    other = here(tmp_path, "coverage", "talk.py", "--run", "nowhere")
    assert other.returncode == 1 and "there is no run 'nowhere'" in other.stderr


def _row(text: str, cell: str) -> list[int]:
    line = next(line for line in text.splitlines() if line.startswith(f"{cell}  "))
    return [int(part.replace(",", "")) for part in line[len(cell) :].split()]
