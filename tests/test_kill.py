"""kill -9 at five random moments of a run, the same command again each time: same shard, nothing paid for twice.

What is asserted of the requests, and why. A reply is paid for once it is in the ledger; a request that was under way
when its process was killed has no reply there and has to be sent again. Nobody outside of the process can tell in which
microsecond of those a reply stood, so the ledger itself is asked: it is copied after every kill, and

1. no question that was in the ledger at any kill is ever received by the server again;
2. what a process sent and did not bring into the ledger before its death is no more than it had under way at once;
3. so each question is received once, and once more for each kill that caught it under way: not one time more.
"""

import json
import random
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from servers import TeacherServer, question_id
from small import command, environment, here, sampling, workbench, write_task

KILLS = 5
CONCURRENCY = 16


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


def test_killed_five_times_it_makes_the_same_shard_and_sends_nothing_twice(tmp_path: Path) -> None:
    rng = random.Random(20)
    smooth, rough = tmp_path / "smooth", tmp_path / "rough"
    write_task(smooth)
    write_task(rough)
    with TeacherServer(tmp_path / "log.jsonl", latency_s=0.04) as server:
        arguments = sampling(server.base_url)
        done = here(smooth, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        asked = [seen.question for seen in server.seen() if seen.event == "received"]
        assert len(asked) > 100
        assert len(set(asked)) == len(asked), "undisturbed, each question is sent once"
        assert server.busiest <= CONCURRENCY

        since = server.count
        allowed: Counter[str] = Counter()
        known: list[tuple[int, set[str]]] = []
        for place in range(KILLS):
            before, sent = server.count, rng.randrange(12, len(asked) // 4) if place else 0
            if place == KILLS - 1:
                killed(rough, arguments, lambda out: "select: runs" in out, rng.uniform(0, 0.1))
            else:
                late = rng.uniform(0, 0.06 if sent else 1)
                killed(rough, arguments, lambda _, n=before + sent: server.count >= n, late)
            in_ledger = paid(rough, tmp_path / "copy")
            received = [seen.question for seen in server.seen() if seen.event == "received"][since:]
            under_way = set(received[before - since :]) - in_ledger
            assert len(under_way) <= CONCURRENCY
            allowed.update(under_way)
            known.append((len(received), in_ledger))
        assert known[3][1] > known[1][1], "the kills fell into different parts of the run"
        done = workbench(rough, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        received = [seen.question for seen in server.seen() if seen.event == "received"][since:]
        assert paid(rough, tmp_path / "copy") == set(asked)
        assert shard(rough) == shard(smooth)

        again = here(rough, *arguments, "--force", "sample")
        assert "sample: runs" in again.stdout, again.stderr
        assert "select: skipped, nothing changed" in again.stdout, "the sample is the same, whoever paid for it"
        assert server.count - since == len(received), "and asked anew it is all in the ledger"

    for at, in_ledger in known:
        assert not in_ledger & set(received[at:]), "what was paid for is not sent again"
    assert set(received) == set(asked)
    assert {question: n - 1 for question, n in Counter(received).items() if n > 1}.items() <= allowed.items()
