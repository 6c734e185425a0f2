"""`workbench ledger`: what was paid for, by whom and for what, and what was found instead of sent."""

import json
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import TeacherServer
from small import here, question, sampling, write_task

from workbench import ledger_views
from workbench.accounts import lines, prices_of, rests
from workbench.config import load_config
from workbench.ledger import Ledger
from workbench.ledger_views import View
from workbench.runs import RunFolder, list_runs, span
from workbench.types import Reply, Usage

API, LOCAL = "big@https://api.example.com/v1", "small.gguf 12 34 in torch"


def fill(path: Path, run: str, teacher: str, purpose: str, count: int) -> None:
    with Ledger(path, run=run) as ledger:
        for n in range(count):
            request = question(f"{run} {teacher} {purpose} {n}", purpose=purpose)
            usage = Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=10)
            ledger.put(Ledger.key(teacher, request), teacher, request, Reply(text="x", usage=usage, seconds=0.5))


def started(project: Path, *sets: str) -> RunFolder:
    """A run that was made and got no further."""
    config = load_config(sets=sets)
    return RunFolder(project, "talk", project / "talk.py", 1, config, "workbench run talk.py", None)


def told(project: Path, *arguments: str) -> list[list[str]]:
    """The words of each line that the verb prints."""
    done = here(project, "ledger", *arguments)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def error(project: Path, *arguments: str) -> tuple[str, str]:
    done = here(project, "ledger", *arguments)
    assert done.returncode == 1, done.stdout
    first, hint = done.stderr.splitlines()
    return first.removeprefix("error: "), hint.removeprefix("next:  ")


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, Path]:
    """A project and its ledger: a run of talk with prices, a run whose folder is gone, and calls of no run."""
    path = tmp_path / ".workbench" / "ledger.sqlite"
    run = started(tmp_path, "teacher.model=big", "teacher.base_url=https://api.example.com/v1", "teacher.price_in=3.0")
    fill(path, run.path.name, API, "label", 4)
    fill(path, run.path.name, API, "write", 2)
    fill(path, "20200101T000000Z-abcdef", LOCAL, "write", 1)
    fill(path, "", LOCAL, "", 1)
    with Ledger(path, run=run.path.name) as ledger:
        for kind, message in (
            ("rate", "slow down"),
            ("auth", "who?"),
            ("rate", "slow\x1b[2J\ndown, " + "please " * 40),
        ):
            ledger.fail("k", API, question(purpose="label"), kind, message)
    return tmp_path, path


# --- the tables ---


def test_a_ledger_that_is_not_there_or_empty_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / ".workbench" / "ledger.sqlite"
    assert here(tmp_path, "ledger").stdout == f"no teacher was asked here yet: {path} is not there\n"
    assert not path.parent.exists(), "looking makes nothing"
    Ledger(path).close()
    assert here(tmp_path, "ledger").stdout == f"no teacher was asked here yet: {path} is empty\n"
    path.write_bytes(b"")  # killed between making the file and its tables
    assert ledger_views.read(path) == View([], [])


def test_the_tables(asked: tuple[Path, Path]) -> None:
    project, path = asked
    before = path.read_bytes()
    rows = told(project)
    assert path.read_bytes() == before
    assert [API, "6", "3", "6,000", "600", "60", "3.0", "0.0180"] in rows
    assert [*LOCAL.split(), "2", "0", "2,000", "200", "20", "1.0", "–"] in rows
    assert ["label", "4", "3", "4,000", "400", "40", "2.0", "0.0120"] in rows
    assert ["talk", "6", "3", "6,000", "600", "60", "3.0", "0.0180"] in rows
    assert ["(no", "run)", "1", "0", "1,000", "100", "10", "0.5", "–"] in rows
    assert ["(its", "run", "is", "gone)", "1", "0", "1,000", "100", "10", "0.5", "–"] in rows
    days = Counter(call.created[:10] for call in ledger_views.read(path).calls)  # two, at midnight
    assert all(any(row[:2] == [day, str(count)] for row in rows) for day, count in days.items())
    (rate,) = (row for row in rows if row[:2] == ["rate", "2"])
    assert rate[3:6] == ["slow", "[2J", "down,"], "the latest message, without what steers a terminal"
    assert rate[-1] == "…"
    assert any(row[:2] == ["auth", "1"] for row in rows)


def test_which_stage_asked_or_which_verb(tmp_path: Path) -> None:
    path, run = tmp_path / ".workbench" / "ledger.sqlite", started(tmp_path)
    for stage, purpose, count in (("shots", "label", 2), ("sample", "label", 3), ("evaluate", "label", 4)):
        run.say(f"{stage}: runs")
        time.sleep(0.005)
        fill(path, run.path.name, f"{API} {stage}", purpose, count)
        time.sleep(0.005)
        run.say(f"{stage}: so much was done")
    fill(path, "tune-teacher", LOCAL, "label", 5)
    rows = [row[:3] for row in told(tmp_path)]
    assert all(row in rows for row in (["shots", "2", "0"], ["sample", "3", "0"], ["evaluate", "4", "0"]))
    assert rows.count(["(workbench", "tune-teacher)", "5"]) == 2, "by task and by stage"


def test_prices_are_given_or_named_by_the_latest_run(asked: tuple[Path, Path]) -> None:
    project, path = asked
    view, runs = ledger_views.read(path), list_runs(project)
    assert prices_of({API, LOCAL}, runs, None) == {API: (3.0, 0.0)}
    local = started(project, "teacher.model=small.gguf", "teacher.price_out=1.0")
    assert prices_of({API, LOCAL}, list_runs(project), None) == {API: (3.0, 0.0), LOCAL: (0.0, 1.0)}
    (local.path / "config.toml").write_text("[teacher]\nno_such_setting = 1\n")
    assert prices_of({API, LOCAL}, list_runs(project), None) == {API: (3.0, 0.0)}
    rows = told(project, "--price-in", "1", "--price-out", "10")
    assert [API, "6", "3", "6,000", "600", "60", "3.0", "0.0120"] in rows
    assert [*LOCAL.split(), "2", "0", "2,000", "200", "20", "1.0", "0.0040"] in rows
    assert {line.money for line in lines(view, {}, lambda row: row.teacher)} == {None}


def test_it_can_be_read_while_a_run_writes(asked: tuple[Path, Path]) -> None:
    project, path = asked
    with Ledger(path, run="") as ledger:
        request = question("under way", purpose="values")
        ledger.put(Ledger.key(API, request), API, request, Reply(text="x"))
        assert ["values", "1", "0", "0", "0", "0", "0.0", "0.0000"] in told(project)


def test_what_cannot_be_read_is_told(asked: tuple[Path, Path]) -> None:
    project, path = asked
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert error(project) == (f"{path} has format 99, this workbench reads 3", "update the workbench")
    path.write_bytes(b"nothing that SQLite knows" * 100)
    said, hint = error(project)
    assert said.startswith(f"{path} cannot be read: ")
    assert hint == "the next run repairs it on opening"


# --- what was found instead of sent ---


class Sampled(NamedTuple):
    project: Path
    runs: list[Path]
    requests: list[int]  # that the server had seen when each run ended


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """A run, the same one with its sampling forced, and the same one where nothing changed. A setting of `Runtime` gives each
    a name of its own, though they begin in the same second."""
    project = tmp_path_factory.mktemp("project")
    write_task(project)
    requests = []
    with TeacherServer(project / "log.jsonl") as server:
        base = sampling(
            server.base_url, "teacher.price_in=1.0", "teacher.licence=CC0-1.0", "shots.mode=auto", "shots.rows=4"
        )
        for n, more in enumerate(([], ["--force", "sample"], [])):
            done = here(project, *base, "--set", f"runtime.concurrency={n + 2}", *more)
            assert done.returncode == 0, done.stdout + done.stderr
            requests.append(server.count)
    runs = sorted(project.glob("runs/talk/*Z-*"), key=lambda run: (run / "events.jsonl").read_text()[:40])
    return Sampled(project, runs, requests)


def test_the_second_run_finds_all_and_sends_nothing(sampled: Sampled) -> None:
    project, runs, requests = sampled
    assert len(runs) == 3
    assert requests[0] == requests[1] == requests[2], "nothing is paid for twice"
    view = ledger_views.read(project / ".workbench" / "ledger.sqlite")
    by = {rested.run: rested for rested in rests(view, list_runs(project))}
    first, again, skipped = (by[run.name] for run in runs)
    assert first.sent + first.besides == requests[0] == len(view.calls)
    assert first.besides > 0, "the shots were measured on dev"
    assert first.sampling == "ran" and first.rested and first.found == first.rested - first.sent
    assert (again.sampling, again.rested, again.found) == ("ran", first.rested, first.rested)
    assert (skipped.sampling, skipped.rested, skipped.found) == ("skipped", first.rested, first.rested)
    assert again.sent == again.besides == skipped.sent == skipped.besides == 0
    line = [again.run, "talk", "ran", str(again.rested), str(again.rested), "0", "0"]
    rows = told(project)
    assert line in rows
    assert any(row[:2] == ["talk", str(len(view.calls))] for row in rows)


def test_a_stages_time_ends_where_the_next_one_speaks(tmp_path: Path) -> None:
    run = started(tmp_path).path
    texts = [
        "shots: runs",
        "sample: runs",
        "sample: 3 new values",
        "note: by someone",
        "select: skipped, nothing changed",
    ]
    events = [json.dumps({"at": f"T{n}", "text": text}) for n, text in enumerate(texts)]
    (run / "events.jsonl").write_text("\n".join(events))
    assert span(run, "sample") == ("T1", "T4")
    assert span(run, "select") == ("", "")
    (run / "events.jsonl").write_text("\n".join([*events[:4], events[4][:-9]]))
    assert span(run, "sample") == ("T1", "~"), "it was killed"
