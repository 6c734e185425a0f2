"""The store: frozen keys, whole artifacts or none, resumable work, and one run at a time."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from workbench.errors import LockedError, StoreError
from workbench.store import Artifact, RunLock, Store, stage_key

KEY = "ab" * 32
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


class Config(BaseModel):
    rank: int = 16
    rate: float = 2e-4


def publish(store: Store, text: str = "hello", key: str = KEY) -> Artifact:
    with store.create("train", key, {"select": "cd"}) as work:
        (work / "sub").mkdir(exist_ok=True)
        (work / "a.txt").write_text(text)
        (work / "sub" / "b.bin").write_bytes(b"\0\1")
    artifact = store.find("train", key)
    assert artifact is not None
    return artifact


def test_the_stage_key_format_is_frozen() -> None:
    inputs, environment = {"select": "00" * 32}, {"torch": "2.8.0", "locale": "größe"}
    key = stage_key("train", 3, Config(), inputs, "11" * 32, environment)
    assert key == "436e01b8fe51212b9e7e55cec6aea06881c49056994484b1455f9deda4494d81"
    assert key == stage_key("train", 3, {"rate": 2e-4, "rank": 16}, inputs, "11" * 32, environment)
    assert len({key, stage_key("train", 4, Config(), inputs, "11" * 32, environment)}) == 2
    assert len({key, stage_key("train", 3, Config(), inputs, "12" * 32, environment)}) == 2
    with pytest.raises(ValueError, match="JSON"):
        stage_key("train", 3, {"rate": float("nan")}, {}, "", {})


def test_publish_and_find(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("train", KEY) is None
    artifact = publish(store)
    assert artifact.path == tmp_path / "store" / "train" / "ab" / KEY
    assert artifact.file("sub/b.bin").read_bytes() == b"\0\1"
    assert [f.name for f in artifact.manifest.files] == ["a.txt", "sub/b.bin"]
    assert artifact.manifest.inputs == {"select": "cd"}
    assert not (tmp_path / "work" / f"train-{KEY[:16]}").exists()
    artifact.verify()
    with pytest.raises(StoreError, match=r"no c\.txt") as raised:
        artifact.file("c.txt")
    assert "a.txt" in raised.value.hint
    other = publish(store, key="ef" * 32)
    assert other.digest == artifact.digest == "32286f971f6de9a2c64826ab7b14cc2149ceb6335d2b3ca390e2bbdd754afcf9"


def test_a_torn_artifact_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    tears: list[Callable[[Path], object]] = [
        lambda path: (path / "a.txt").write_text("longer than it was"),
        lambda path: (path / "a.txt").unlink(),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text('{"v": 1'),
    ]
    for tear in tears:
        path = publish(store).path
        tear(path)
        caplog.clear()
        assert store.find("train", KEY) is None
        assert "is torn" in caplog.text
    assert len(list((tmp_path / "store" / "train" / "ab").glob("*.torn-*"))) == 4
    path = publish(store).path
    (path / "a.txt").write_text("jello")
    found = store.find("train", KEY)
    assert found is not None
    with pytest.raises(StoreError, match="not what was published"):
        found.verify()


def test_errors_clean_up_and_interruptions_do_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = tmp_path / "work" / f"train-{KEY[:16]}"
    with pytest.raises(ZeroDivisionError), store.create("train", KEY, {}) as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert not work.exists()
    assert store.find("train", KEY) is None
    with pytest.raises(KeyboardInterrupt), store.create("train", KEY, {}) as folder:
        (folder / "checkpoint").touch()
        raise KeyboardInterrupt
    assert (store.work("train", KEY) / "checkpoint").exists()
    with pytest.raises(ZeroDivisionError), store.create("train", KEY, {}, keep=True) as folder:
        raise ZeroDivisionError
    assert (work / "checkpoint").exists()
    with pytest.raises(FileNotFoundError), store.create("train", KEY, {}) as folder:
        (folder / "nowhere").read_text()
    assert not work.exists()


def test_a_full_disk_is_told_and_the_work_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="full") as raised, store.create("train", KEY, {}) as folder:
        (folder / "checkpoint").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert "free some space" in raised.value.hint
    assert (store.work("train", KEY) / "checkpoint").exists()


CHILD = """
import sys, time
from pathlib import Path
from workbench.store import RunLock, Store
root = Path(sys.argv[1])
with RunLock(root), Store(root).create("train", sys.argv[2], {}) as work:
    (work / "checkpoint").write_text("step 7")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_kill_9_keeps_the_work_and_frees_the_lock(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), KEY], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    with pytest.raises(LockedError, match=rf"process {child.pid} \(-c .*since 20") as raised, RunLock(tmp_path):
        pass
    assert f"kill {child.pid}" in raised.value.hint
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with RunLock(tmp_path), Store(tmp_path).create("train", KEY, {}) as work:
        assert (work / "checkpoint").read_text() == "step 7"
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    with RunLock(tmp_path):
        pass
    assert Store(tmp_path).find("train", KEY)


def test_the_first_to_publish_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.create("train", KEY, {}) as mine:
        (mine / "a.txt").write_text("slow")
        with store.create("train", KEY, {}) as theirs:
            assert theirs != mine, "the stable folder is taken: a private one"
            (theirs / "a.txt").write_text("fast")
    found = store.find("train", KEY)
    assert found is not None
    assert found.file("a.txt").read_text() == "fast"
    assert not list((tmp_path / "work").iterdir())


def test_two_processes_publish_one_artifact(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=publish, args=(Store(tmp_path), "same")) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    found = Store(tmp_path).find("train", KEY)
    assert found is not None
    found.verify()
    assert [p.name for p in (tmp_path / "store" / "train" / "ab").iterdir()] == [KEY]
    assert not list((tmp_path / "work").iterdir())
