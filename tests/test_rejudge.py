"""`workbench rejudge`: stored candidates before other validators, without a call."""

from pathlib import Path

import pytest
from servers import TeacherServer
from small import TASK, here, sampling, write_task

from workbench import registry, rejudge
from workbench.runs import candidates_of

STRICTER = '''
from workbench.validators import simple


def no_timers(judged):
    """What the author comes to want later."""
    return "no timers here" if any(call["name"] == "set_timer" for call in judged.value) else None
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_task(folder)
    with TeacherServer(folder / "log.jsonl") as server:
        done = here(folder, *sampling(server.base_url))
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_changes_where_nothing_was_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejudge, "PART_BYTES", 4096)  # many parts
    (folder,) = project.glob("runs/talk/*Z-*")
    path = candidates_of(folder)
    lines = path.read_text().splitlines()
    assert len(list(rejudge._parts(path))) > 5
    found = rejudge.rejudge(registry.load(str(project / "talk.py")), path, jobs=2)
    assert found.counts.total() == len(lines) and not found.changed
    assert found.counts["pass", "pass"] > 10 and found.counts["grounded", "grounded"] > 0


def test_a_new_and_a_removed_validator_are_told_with_cases(project: Path) -> None:
    other = project / "other.py"
    other.write_text(STRICTER + TASK.replace("grounded(), ", 'simple("no timers", no_timers), '))
    (folder,) = project.glob("runs/talk/*Z-*")
    done = here(project, "rejudge", str(other), "--run", folder.name, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert "no teacher asked" in first and "judged otherwise" in first
    text = "\n".join(rest)
    assert "were let by and are refused by no timers" in text and "no timers here" in text
    assert "were refused by grounded and are let by" in text
    assert '"name":"set_timer"' in text


def test_without_a_name_it_takes_the_newest_run(project: Path) -> None:
    done = here(project, "rejudge", "talk.py")
    assert done.returncode == 0, done.stderr
    assert "0 are judged otherwise" in done.stdout


def test_a_run_without_candidates_is_told(project: Path, tmp_path: Path) -> None:
    write_task(tmp_path)
    done = here(tmp_path, "rejudge", "talk.py")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
