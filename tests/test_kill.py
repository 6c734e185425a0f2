"""kill -9 at five random moments of a run, the same command again each time: same shard, no request sent twice.

What was under way at a kill is brought into the ledger by the post, which outlives the run; the next run waits for it. So each
question is received by the server once, whatever the moment. `benchmarks/kills.py` does the same with fifty kills.
"""

import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from servers import TeacherServer, question_id
from small import command, environment, here, sampling, workbench, write_task

KILLS = 5
CONCURRENCY = 16


class Outcome(NamedTuple):
    """`asked` by a run that nobody disturbed, `received` from the one that was killed, and the digests of both shards."""

    asked: list[str]
    received: list[str]
    smooth: tuple[str, str]
    rough: tuple[str, str]


def shard(project: Path) -> tuple[str, str]:
    """The digests of the sample and select artifacts, from the last run's lock.json."""
    last = max(project.glob("runs/talk/*Z-*/lock.json"), key=lambda path: path.stat().st_mtime_ns)
    digests = {entry["stage"]: entry["digest"] for entry in json.loads(last.read_text())["stages"]}
    return digests["sample"], digests["select"]


def paid(project: Path, copy: Path) -> set[str]:
    """The questions in the ledger, read from a copy: the next process shall find the file as the dead one left it."""
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for file in (project / ".workbench").glob("ledger.sqlite*"):
        shutil.copy(file, copy)
    if not (copy / "ledger.sqlite").exists():
        return set()
    db = sqlite3.connect(copy / "ledger.sqlite")
    try:
        requests = [json.loads(row[0]) for row in db.execute("SELECT request FROM calls")]
    except sqlite3.OperationalError:  # killed before the tables were made
        return set()
    finally:
        db.close()
    return {question_id(r["messages"], r["temperature"], r["max_tokens"]) for r in requests}


def killed(project: Path, arguments: list[str], ready: Callable[[str], bool], delay_s: float) -> None:
    """Starts the run and kills it `delay_s` after `ready` said yes to what it has printed."""
    out = project / "out.txt"
    with out.open("w") as stream:
        process = subprocess.Popen(
            command(*arguments), cwd=project, env=environment(), stdout=stream, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 60
        while not ready(out.read_text()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay_s)
        ended = process.poll()
        process.kill()
        process.wait()
    assert ended is None, f"the run ended before it was killed:\n{out.read_text()}"


def killed_run(folder: Path, kills: int, *more: str) -> Outcome:
    """One run as it should be, and one that is killed so many times: as it begins, in its sampling, and in its selection."""
    rng = random.Random(20)
    smooth, rough = folder / "smooth", folder / "rough"
    write_task(smooth)
    write_task(rough)
    with TeacherServer(folder / "log.jsonl", latency_s=0.04) as server:
        arguments = [*sampling(server.base_url), *more]
        done = here(smooth, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [seen.question for seen in server.seen() if seen.event == "received"]
        since = server.count
        for place in range(kills):
            before, share = server.count, max(2, 3 * len(asked) // (2 * kills))
            sent = rng.randrange(share) if place else 0
            late = rng.uniform(0, 0.06 if sent else 1)
            if place == kills - 1:
                killed(rough, arguments, lambda out: "select: runs" in out, rng.uniform(0, 0.1))
            else:
                killed(rough, arguments, lambda out, n=before + sent: server.count >= n or "select: runs" in out, late)
        done = workbench(rough, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        received = [seen.question for seen in server.seen() if seen.event == "received"][since:]
        assert server.busiest <= CONCURRENCY

        again = here(rough, *arguments, "--force", "sample")
        assert "sample: runs" in again.stdout, again.stderr
        assert "select: skipped, nothing changed" in again.stdout, "the sample is the same, whoever paid for it"
        assert server.count - since == len(received), "and asked anew it is all in the ledger"
    assert paid(rough, folder / "copy") == set(received)
    return Outcome(asked, received, shard(smooth), shard(rough))


def test_killed_five_times_it_makes_the_same_shard_and_sends_nothing_twice(tmp_path: Path) -> None:
    found = killed_run(tmp_path, KILLS)
    assert len(found.asked) > 80
    assert len(set(found.asked)) == len(found.asked), "undisturbed, each question is sent once"
    assert sorted(found.received) == sorted(found.asked), "nor more often when it is killed"
    assert found.rough == found.smooth
