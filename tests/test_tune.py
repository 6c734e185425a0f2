"""`workbench tune-teacher`: dspy's own optimizers, through the ledger and within a budget, against the toy teacher's server."""

import json
import sys
from pathlib import Path

import pytest
from servers import TeacherServer
from small import here, write_task

from workbench.config import ShotsConfig
from workbench.errors import ConfigError
from workbench.registry import load
from workbench.stages import tune
from workbench.teachers.prompts import Labeler

DEV = 6


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


def tuning(server: TeacherServer, *more: str) -> list[str]:
    sets = (f"teacher.base_url={server.base_url}", "runtime.attempts=1")
    return ["tune-teacher", "talk.py", "--teacher", "fake", *(w for s in sets for w in ("--set", s)), *more]


@pytest.mark.parametrize(("optimizer", "calls"), [("bootstrap", 60), ("gepa", 40), ("mipro", 200)])
def test_a_program_is_written_scored_and_found_again(project: Path, optimizer: str, calls: int) -> None:
    with TeacherServer(project / "log") as server:
        command = tuning(server, "--optimizer", optimizer, "--calls", str(calls))
        done = here(project, *command)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = server.count
        assert DEV < asked <= calls + 2 * DEV
        again = here(project, *command)
        assert again.stdout == done.stdout
        assert server.count == asked, "what the ledger holds is not asked again"
    file = project / "programs" / f"talk-{optimizer}.json"
    assert f"--set shots.program={file}" in done.stdout and "McNemar, p = " in done.stdout
    saved = json.loads(file.read_text())
    shown = {demo["request"] for demo in saved["demos"]}
    assert not shown & {"start up the weather app", "telephone Sanjay now"}, "no dev row is shown"
    task = load(str(project / "talk.py"))
    labeler = Labeler(task, [], "program", ShotsConfig(program=str(file)))
    (*_, last) = labeler.messages(task.examples("test")[0])
    assert last.content == "fire up Spotify"


def test_the_budget_ends_it(project: Path) -> None:
    with TeacherServer(project / "log") as server:
        done = here(project, *tuning(server, "--calls", "3"))
        assert server.count == 3
    assert done.returncode == 1 and "the budget of 3 calls is spent" in done.stderr
    assert not (project / "programs").exists()


def test_a_dead_teacher_is_told_as_it_is(project: Path) -> None:
    with TeacherServer(project / "log", script=["401"] * 50) as server:
        done = here(project, *tuning(server))
        assert server.count < 20
    assert done.returncode == 1 and "401" in done.stderr and "Traceback" not in done.stderr


def test_what_is_missing_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = here(project, "tune-teacher", "talk.py", "--optimizer", "magic")
    assert done.returncode == 1 and "there are bootstrap, mipro, gepa" in done.stderr
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="needs optuna"):
        tune._mipro(None, [], [1], None, 10, None)
