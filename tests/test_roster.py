"""Which teacher to take: measured through a real server, recommended by rule; and the floor below which a run stops."""

from pathlib import Path

import pytest
from servers import TeacherServer
from small import here, sampling, write_task

from workbench.scoring import Score
from workbench.stages.roster import Tried, recommended


def tried(name: str, right: int, *, money: float = 0.0, seconds: float = 1.0) -> Tried:
    """One that got the first `right` of 40 rows."""
    share = 100 * right / 40
    return Tried(
        teacher=name, licence="CC0-1.0", rows=40, unanswered=0, exact=Score(share, share, share), passing=90.0, precision=80.0,
        seconds=seconds, tokens_in=1.0, tokens_out=1.0, money=money, right=tuple(row < right for row in range(40)),
    )  # fmt: skip


def test_the_cheapest_that_is_not_plainly_worse() -> None:
    dear, cheap, weak = tried("dear", 30, money=5), tried("cheap", 29, money=1), tried("weak", 10)
    chosen, why = recommended([dear, cheap, weak], 0)
    assert chosen is cheap and why == "cheap is cheaper than dear, and not plainly worse"


def test_the_best_where_the_cheaper_ones_are_worse() -> None:
    chosen, why = recommended([tried("dear", 30, money=5), tried("weak", 10)], 0)
    assert chosen is not None and (chosen.teacher, why) == ("dear", "dear is the best")


def test_without_prices_the_faster_one() -> None:
    chosen, _ = recommended([tried("slow", 30, seconds=3), tried("fast", 30, seconds=1)], 0)
    assert chosen is not None and chosen.teacher == "fast"


def test_none_reaches_the_floor() -> None:
    chosen, why = recommended([tried("weak", 10)], 60)
    assert chosen is None and "floor of 60 exact" in why


def test_measured_through_a_server(tmp_path: Path) -> None:
    """Who always says that nothing fits is right on one dev row of six, and the validators let all six pass."""
    write_task(tmp_path)
    with TeacherServer(tmp_path / "log", text="[]") as server:
        names = ["--teacher", f"silent@{server.base_url}", "--teacher", "gone@http://127.0.0.1:9/v1"]
        sets = ["--set", "runtime.attempts=1", "--set", "runtime.timeout_s=2", "--set", "teacher.price_out=1000"]
        done = here(tmp_path, "teachers", "talk.py", *names, *sets)
        first, asked = done.stdout, server.count
        again = here(tmp_path, "teachers", "talk.py", *names[:2], *sets)
        assert server.count == asked == 6, "what the ledger holds is not asked again"
    assert done.returncode == again.returncode == 0, done.stderr
    line = next(line for line in first.splitlines() if line.startswith("silent"))
    assert "16.7 (" in line and " 100.0 " in line and line.split()[-2] != "0.0000"
    assert f"silent@{server.base_url} is the best" in first
    assert "gone@http://127.0.0.1:9/v1" in done.stderr


@pytest.mark.parametrize(("floor", "stops"), [(10, False), (90, True)])
def test_a_run_stops_below_the_floor(tmp_path: Path, floor: int, stops: bool) -> None:
    file = write_task(tmp_path)
    file.write_text(file.read_text().replace("sources=(", f"floor={floor},\n        sources=("))
    with TeacherServer(tmp_path / "log", text="[]") as server:
        done = here(tmp_path, *sampling(server.base_url), "--until", "shots")
    assert (done.returncode != 0) is stops
    assert ("16.7 exact on dev; the task asks for 90 of a teacher" in done.stderr) is stops
