"""The ledger: frozen keys, first reply wins, and what was reported done survives kills, crowds and damaged pages."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from servers import TeacherServer
from small import here, sampling, write_task

from workbench import ledger_file, ledger_views
from workbench.errors import StoreError
from workbench.ledger import Ledger, Paid, redact
from workbench.types import Message, Reply, Request, Usage


def ask(text: str = "hello", /, **options: object) -> Request:
    return Request.model_validate({"messages": [{"role": "user", "content": text}], **options})


def fill(path: Path, count: int, start: int = 0) -> list[str]:
    keys = []
    with Ledger(path, run="r1") as ledger:
        for n in range(start, start + count):
            request = ask(f"question {n} " + "x" * 300)
            keys.append(Ledger.key("m", request))
            ledger.put(keys[-1], "m", request, Reply(text=f"answer {n}", usage=Usage(prompt_tokens=n)))
    return keys


def test_the_key_format_is_frozen() -> None:
    system, user = Message(role="system", content="Be brief."), Message(role="user", content="Größe? 🙂")
    request = Request(
        messages=(system, user),
        temperature=0.7,
        top_p=0.95,
        max_tokens=64,
        k=2,
        json_schema={"b": 1, "a": [None, True]},
    )
    assert Ledger.key("qwen", request) == "e775bb004d433e80f13636e061bb574eff48f5c04a76aad8e0018dba07b0fe8f"
    assert Ledger.key("m", ask()) == "7c76587cdac9b9b7ab0f0959921900a330050f8ffc5bb0bc243463e1596a2d5c"


def test_the_key_covers_what_shapes_the_reply_and_nothing_else() -> None:
    base = Ledger.key("m", ask())
    assert Ledger.key("m", ask(purpose="label")) == base
    assert Ledger.key("m", ask(temperature=0)) == base
    others = [
        Ledger.key("n", ask()),
        *(Ledger.key("m", ask(**{k: v})) for k, v in {"temperature": 1, "top_p": 0.5, "max_tokens": 1, "k": 1}.items()),
        Ledger.key("m", ask("Hello")),
        Ledger.key("m", ask(json_schema={})),
        Ledger.key("m", ask(json_schema={"a": 1, "b": 2})),
        Ledger.key("m", ask(json_schema={"b": 2, "a": 1})),  # the order of properties shapes the reply
    ]
    assert len({base, *others}) == len(others) + 1


def test_put_and_get(tmp_path: Path) -> None:
    request = ask(purpose="label")
    key = Ledger.key("m", request)
    reply = Reply(
        text="yes\0é", finish="length", usage=Usage(prompt_tokens=5, completion_tokens=2, cached_tokens=1), seconds=0.1
    )
    with Ledger(tmp_path / "deep" / "ledger.sqlite", run="r1") as ledger:
        assert ledger.get(key) is None
        assert ledger.put(key, "m", request, reply, teacher="api") == reply
        assert ledger.put(key, "m", request, Reply(text="later")) == reply, "the first one wins"
        ledger.fail(key, "m", request, "timeout", "no answer", teacher="api")
    with Ledger(tmp_path / "deep" / "ledger.sqlite", run="r2") as ledger:
        assert ledger.get(key) == reply
        assert ledger.count() == 1
        assert ledger.notice == ""
        calls, failures = ledger_views.read(ledger.path)
    (call,), (failure,) = calls, failures
    assert (call.teacher, call.purpose, call.run, call.seconds) == ("api", "label", "r1", 0.1)
    assert (call.prompt_tokens, call.completion_tokens, call.cached_tokens) == (5, 2, 1)
    assert (failure.teacher, failure.purpose, failure.run, failure.kind) == ("api", "label", "r1", "timeout")


def test_many_are_written_in_one_commit_or_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [ask(f"question {n}") for n in range(3)]
    calls = [Paid(Ledger.key("m", request), "m", request, Reply(text=f"a{n}")) for n, request in enumerate(requests)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.put(*calls[1][:3], Reply(text="before"))
        assert [reply.text for reply in ledger.put_all(calls)] == ["a0", "before", "a2"]
        assert ledger.count() == 3
        late = [calls[0]._replace(key="new"), calls[0]._replace(key="bad")]
        insert = ledger_file.insert

        def failing(db: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> bool:
            if row["key"] == "bad":
                raise sqlite3.OperationalError("the disk is gone")
            return insert(db, table, row)

        monkeypatch.setattr(ledger_file, "insert", failing)
        with pytest.raises(sqlite3.OperationalError):
            ledger.put_all(late)
        monkeypatch.undo()
        assert ledger.get("new") is None, "the first of them is not there either"
        assert ledger.put(*calls[2][:3], Reply(text="later")).text == "a2"


def test_half_an_emoji_is_kept_as_what_utf8_can_hold(tmp_path: Path) -> None:
    request = ask("half \ud83d")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert (
            ledger.put(Ledger.key("m", request), "m", request, Reply(text="a\ud83d \ud83d\ude42")).text == "a\ufffd 🙂"
        )


def test_no_api_key_reaches_the_file(tmp_path: Path) -> None:
    said = (
        "401 for sk-proj-abcDEF123456_x-9, header Authorization: Bearer abc.def-ghi, api_key='zz9zz9zz', "
        '{"api-key": "qq8qq8"}, hf_abcdefghij, sk-ant-api03-AAAA, incorrect key sk-abc*****wxyz; task-force stays'
    )
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.fail("k", "m", ask(), "auth", said)
    stored = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    secrets = (b"abcDEF123456", b"abc.def-ghi", b"zz9zz9", b"qq8qq8", b"abcdefghij", b"api03", b"wxyz")
    assert not [s for s in secrets if s in stored]
    assert b"401 for [redacted], header" in stored
    assert redact(said).endswith("task-force stays")


def test_threads_share_one_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:

        def work(n: int) -> None:
            for i in range(10):
                request = ask(f"{n} {i}")
                ledger.put(Ledger.key("m", request), "m", request, Reply(text="x"))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.count() == 40


def test_two_processes_make_and_write_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=fill, args=(path, 30, start)) for start in (0, 20)]  # ten questions in common
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with Ledger(path) as ledger:
        assert ledger.count() == 50


WRITER = """
import sys
from pathlib import Path
from workbench.ledger import Ledger
from workbench.types import Message, Reply, Request
ledger = Ledger(Path(sys.argv[1]))
for n in range(100000):
    request = Request(messages=(Message(role="user", content=str(n)),))
    ledger.put(Ledger.key("m", request), "m", request, Reply(text="x" * 500))
    print(n, flush=True)
"""


def test_rows_reported_done_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    done = [int(child.stdout.readline()) for _ in range(25)]
    child.send_signal(signal.SIGKILL)
    done += [int(line) for line in child.stdout.read().splitlines() if line]
    child.wait()
    child.stdout.close()
    with Ledger(path) as ledger:
        assert ledger.notice == ""
        assert all(ledger.get(Ledger.key("m", ask(str(n)))) for n in done)
        assert ledger.count() in {len(done), len(done) + 1}


def damaged(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    page = ledger_file.PAGE_BYTES
    if how == "magic":
        data[:16] = b"garbage garbage!"
    elif how == "page 1":
        data[:page] = bytes(page)
    elif how == "cut":
        del data[len(data) * 2 // 3 :]
    elif how == "middle":
        middle = len(data) // page // 2 * page
        data[middle : middle + page] = os.urandom(page)
    elif how == "noise":
        data = bytearray(os.urandom(20_000))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "at_least"), [("magic", 200), ("page 1", 200), ("cut", 80), ("middle", 180), ("noise", 0)]
)
def test_a_damaged_file_is_set_aside_and_its_rows_carried_over(tmp_path: Path, how: str, at_least: int) -> None:
    path = tmp_path / "ledger.sqlite"
    keys = fill(path, 200)
    damaged(path, how)
    if how == "middle":  # not seen on opening: only when the page is read, or after a crash
        ledger_file.suspect_file(path).touch()
    with Ledger(path) as ledger:
        assert "set aside as ledger.sqlite.torn-" in ledger.notice
        answers = {n: ledger.get(key) for n, key in enumerate(keys)}
        assert len([a for a in answers.values() if a]) == ledger.count() >= at_least
        assert all(a.text == f"answer {n}" for n, a in answers.items() if a)
        request = ask("new")
        ledger.put("k", "m", request, Reply(text="goes on"))
    with Ledger(path) as ledger:
        assert ledger.notice == ""
    assert [p.name for p in tmp_path.iterdir() if "torn" not in p.name and "lock" not in p.name] == ["ledger.sqlite"]


def test_damage_found_while_running_is_repaired_on_the_next_opening(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    keys = fill(path, 3)
    db = sqlite3.connect(path)
    db.execute("UPDATE calls SET text = 'something else' WHERE key = ?", (keys[1],))
    db.commit()
    db.close()
    with Ledger(path) as ledger, pytest.raises(StoreError, match="damaged") as raised:
        ledger.get(keys[1])
    assert "repaired on opening" in raised.value.hint
    with Ledger(path) as ledger:
        assert "2 calls were carried over, 1 were found damaged" in ledger.notice
        assert ledger.get(keys[1]) is None


def test_a_damaged_file_in_use_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.sqlite"
    monkeypatch.setattr("workbench.ledger.REPAIR_WAIT_S", 0.2)
    fill(path, 1)
    with Ledger(path):
        ledger_file.suspect_file(path).touch()
        with pytest.raises(StoreError, match="another process has it open"):
            Ledger(path)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    keys = fill(path, 5)
    with Ledger(path) as ledger:
        ledger._db.execute("PRAGMA max_page_count = 1")
        request = ask("y" * 50_000)
        with pytest.raises(StoreError, match="full") as raised:
            ledger.put("k", "m", request, Reply(text="x"))
        assert "free some space" in raised.value.hint
        assert ledger.get(keys[4]) is not None


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    fill(path, 1)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="format 99"):
        Ledger(path)


def test_what_was_repaired_is_told_to_who_asks(tmp_path: Path) -> None:
    write_task(tmp_path)
    path = tmp_path / ".workbench" / "ledger.sqlite"
    with TeacherServer(tmp_path / "log") as server:
        command = sampling(server.base_url, "sample.max_calls=5")
        assert here(tmp_path, *command).returncode == 0
        damaged(path, "magic")
        again = here(tmp_path, *command)
        (events,) = sorted(tmp_path.glob("runs/talk/*Z-*/events.jsonl"))[-1:]
        assert "the ledger was damaged" in again.stdout and "the ledger was damaged" in events.read_text()
        damaged(path, "magic")
        verb = here(tmp_path, "teachers", "talk.py", "--teacher", f"fake@{server.base_url}", "--rows", "2")
    assert verb.returncode == 0 and verb.stderr.count("the ledger was damaged") == 1
