"""A sampling run against a server that misbehaves in every way that trying again can mend: it completes, the shard is that of
an undisturbed run, nothing is lost, and nothing that was answered is asked twice."""

import random
from collections import Counter
from pathlib import Path

from servers import TeacherServer
from small import here, sampling, write_task
from test_kill import paid, shard

MENDED = ("500", "503", "hang", "half", "cut", "reset", "no-choices", "empty", "html", "text", "list", "drip")
HARMLESS = ("slow",)


def script(rng: random.Random) -> list[str]:
    """Bursts of 429 first, then every other misdeed among as many good replies."""
    bursts = [*["429"] * 8, *["ok"] * 20, *["429"] * 6]
    mixed = [*MENDED, *HARMLESS, *["ok"] * 20]
    rng.shuffle(mixed)
    return bursts + mixed


def test_a_run_survives_a_server_that_does_everything_wrong(tmp_path: Path) -> None:
    write_task(tmp_path / "smooth")
    write_task(tmp_path / "rough")
    patient = ("runtime.timeout_s=1.5", "runtime.attempts=12")
    with TeacherServer(tmp_path / "log.jsonl") as server:
        done = here(tmp_path / "smooth", *sampling(server.base_url, *patient))
        assert done.returncode == 0, done.stdout + done.stderr
        since = len(server.seen())
        wanted = {seen.question for seen in server.seen()}

        misdeeds = script(random.Random(7))
        server.script = list(misdeeds)
        done = here(tmp_path / "rough", *sampling(server.base_url, *patient))
        assert done.returncode == 0, done.stdout + done.stderr
        assert not server.script, "each misdeed was met"
        received = Counter(seen.question for seen in server.seen()[since:] if seen.event == "received")

    failed = sum(deed not in {"ok", *HARMLESS} for deed in misdeeds)
    assert paid(tmp_path / "rough", tmp_path / "copy") == set(received) == wanted, "nothing is lost"
    assert sum(received.values()) == len(wanted) + failed, "asked again is what failed, and nothing else"
    assert shard(tmp_path / "rough") == shard(tmp_path / "smooth")


def test_a_teacher_that_never_answers_ends_the_run(tmp_path: Path) -> None:
    """It is no source without hope: what came would be a student of the seeds alone."""
    write_task(tmp_path)
    done = here(tmp_path, *sampling("http://127.0.0.1:9/v1", "runtime.attempts=1", "sample.hopeless_after=3"))
    assert done.returncode == 1 and "requests, and none was answered" in done.stderr, done.stdout + done.stderr
