"""How far a loop is, told while it runs."""

from pathlib import Path

import pytest
from servers import TeacherServer
from small import write_task

from workbench import pipeline, registry
from workbench.config import load_config
from workbench.stages import ticker
from workbench.stages.ticker import Ticker


def test_every_half_minute_with_the_minutes_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = iter((0.0, 10.0, 29.0, 30.0, 50.0, 61.0, 62.0, 80.0, 200.0)), list[str]()
    monkeypatch.setattr(ticker, "monotonic", lambda: next(clock))
    tick = Ticker(said.append, "label", "inputs", 8)
    for _ in range(8):
        tick()
    assert said == ["label: 3 of 8 inputs, 0.8 min left", "label: 5 of 8 inputs, 0.6 min left"], "not of the last"


def test_a_teacher_is_heard_of_while_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker, "EVERY_S", 0.0)
    task, said = registry.load(str(write_task(tmp_path))), list[str]()
    with TeacherServer(tmp_path / "log") as server:
        sets = (f"teacher.base_url={server.base_url}", "teacher.model=fake", "shots.mode=auto", "sample.inverse=6")
        config = load_config(sets=sets)
        pipeline.walk(task, config, tmp_path / ".workbench", until="sample", say=said.append, done=lambda _: None)
    rows, modes = len(task.examples("dev")), len([line for line in said if "exact on" in line])
    told = [line for line in said if "answers, " in line]
    assert len(told) == rows * modes - 1 and told[0].startswith(f"shots: 1 of {rows * modes} answers, ")
    wishes = [line for line in said if " inverse wishes, " in line]
    assert [line.split()[1] for line in wishes] == [f"{done}/6" for done in range(1, 7)]
