"""Content-addressed artifacts: what a stage made, found again by a key over everything that went into it.

    <root>/store/<stage>/<k[:2]>/<key>/   files…, manifest.json; appears whole, by rename, or not at all
    <root>/work/<stage>-<key[:16]>/       where a stage writes until then; survives a kill, so that training can go on
    <root>/run.lock                       held by the one run at work here (`RunLock`)

`root` is a project's `.workbench`. The manifest is written last, so its existence means done. `find` looks at names and
sizes (milliseconds); `Artifact.verify` hashes everything.

Not guaranteed: bytes that rot in place with the size kept are only seen by `verify`; locks do not reach across machines
on most network disks. Needs fcntl (Linux, macOS).
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError

from workbench.digest import digest, file_digest
from workbench.errors import LockedError, StoreError, WorkbenchError
from workbench.types import Frozen

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def stage_key(
    stage: str,
    version: int,
    config: BaseModel | Mapping[str, Any],
    inputs: Mapping[str, str],
    code: str,
    environment: Mapping[str, str],
) -> str:
    """The name of what a stage would make: sha256 of the canonical JSON of all that can change it, 64 hex digits.

    `inputs` and `code` are digests. The format is frozen by tests/test_store.py: a change loses every artifact.
    Raises ValueError on NaN and TypeError on a value that has no JSON form.
    """
    plain = config if isinstance(config, BaseModel) else dict(config)
    return digest(
        {
            "stage": stage,
            "version": version,
            "config": plain,
            "inputs": dict(inputs),
            "code": code,
            "environment": dict(environment),
        }
    )


class File(Frozen):
    name: str  # relative to the artifact, with forward slashes
    size_bytes: int
    sha256: str


class Manifest(Frozen):
    """manifest.json. `inputs` are what the key was made of, for `workbench why`; `created` is UTC, ISO 8601."""

    v: Literal[1] = 1
    stage: str
    key: str
    inputs: dict[str, Any]
    files: tuple[File, ...]
    created: str


@dataclass(frozen=True)
class Artifact:
    """A published folder. Read it; never write into it."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """The path of one file. Raises StoreError when the artifact does not have it."""
        names = [f.name for f in self.manifest.files]
        if name not in names:
            raise StoreError(
                f"the {self.manifest.stage} artifact {self.manifest.key[:8]} has no {name}",
                f"it holds {', '.join(names) or 'nothing'}; run the stage again with --force if that is wrong",
            )
        return self.path / name

    @property
    def digest(self) -> str:
        """One digest of names and contents, the same wherever and whenever they were made."""
        return digest(sorted((f.name, f.sha256) for f in self.manifest.files))

    def verify(self) -> None:
        """Hashes every file (about 1 s a GB). Raises StoreError naming the first that is not what was published."""
        for file in self.manifest.files:
            path = self.path / file.name
            if not path.is_file() or file_digest(path) != file.sha256:
                raise StoreError(f"{path} is not what was published", f"delete {self.path} and run the stage again")


class Store:
    """The artifacts below one `root`. Safe for several processes; cheap to make."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        return self.root / "store" / stage / key[:2] / key

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact if it is published and whole. A torn one is set aside as `<key>.torn-<time>`, with a warning."""
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        try:
            manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
            wrong = [f.name for f in manifest.files if (path / f.name).stat().st_size != f.size_bytes]
            torn = f"{', '.join(wrong)} changed size" if wrong else ""
        except FileNotFoundError as error:
            torn = f"{error.filename} is missing"
        except ValidationError as error:
            torn = f"its manifest cannot be read: {error.errors()[0]['msg']}"
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}", "check the disk and the permissions") from error
        if not torn:
            return Artifact(path, manifest)
        aside = path.with_name(f"{key}.torn-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        with _told(path):
            path.rename(aside)
        log.warning("the %s artifact %s is torn (%s): set aside as %s", stage, key[:8], torn, aside)
        return None

    def discard(self, stage: str, key: str) -> None:
        """Remove an artifact and what a killed run left of it, so that the stage is run anew."""
        with _told(self.root):
            for path in (self.path(stage, key), self.root / "work" / f"{stage}-{key[:16]}"):
                if path.exists():
                    shutil.rmtree(path)

    def work(self, stage: str, key: str) -> Path:
        """The folder where a stage writes until its artifact is published: always the same, made if need be.

        Never emptied: what a killed run left in it is the stage's business, be it a checkpoint or a torn file.
        """
        path = self.root / "work" / f"{stage}-{key[:16]}"
        with _told(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def create(self, stage: str, key: str, inputs: Mapping[str, Any], *, keep: bool = False) -> Iterator[Path]:
        """Yields the working folder; on a clean exit everything in it becomes the artifact, by one rename.

        On an exception the folder is removed, unless `keep` (a stage that can go on from its own checkpoints) or the
        disk is full; on Ctrl-C and kill it stays. When another process is at work on the same key, a private folder is
        given instead of the stable one; when another has published meanwhile, its artifact stays and ours is dropped.
        The name manifest.json is ours. Raises StoreError when the disk is full or not writable.
        """
        path = self.work(stage, key)
        with _told(path):
            handle = _hold(path)
            if handle is None:
                log.warning("another process makes %s %s too; the first to end is kept", stage, key[:8])
                path = path.with_name(f"{path.name}.{os.getpid()}")
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
        try:
            with _told(path):
                yield path
                self._publish(stage, key, dict(inputs), path)
        except BaseException as error:
            full = isinstance(error, StoreError) and isinstance(error.__cause__, OSError)
            if handle is None or (isinstance(error, Exception) and not keep and not full):
                shutil.rmtree(path, ignore_errors=True)
            raise
        finally:
            if handle is not None:
                os.close(handle)

    def _publish(self, stage: str, key: str, inputs: dict[str, Any], work: Path) -> None:
        (work / MANIFEST).unlink(missing_ok=True)
        paths = sorted(p for p in work.rglob("*") if p.is_file())
        files = []
        for path in paths:
            _sync(path)
            name = path.relative_to(work).as_posix()
            files.append(File(name=name, size_bytes=path.stat().st_size, sha256=file_digest(path)))
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(stage=stage, key=key, inputs=inputs, files=tuple(files), created=created)
        (work / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        _sync(work / MANIFEST)
        final = self.path(stage, key)
        final.parent.mkdir(parents=True, exist_ok=True)
        if self.find(stage, key) is None:  # sets a torn one aside
            try:
                work.replace(final)
                _sync(final.parent)
                return
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
        log.info("%s %s was published by another process meanwhile: that one is kept", stage, key[:8])
        shutil.rmtree(work, ignore_errors=True)


class RunLock:
    """The one run at work in a project's `.workbench`: a context manager; the system releases it on any death.

    Not guaranteed: a child that was forked without exec holds it on after its parent died.
    """

    def __init__(self, path: Path) -> None:
        self.file = path / "run.lock"
        self._handle: int | None = None

    def __enter__(self) -> Self:
        """Raises LockedError naming the pid of the holder and what it runs, StoreError when nothing can be written."""
        with _told(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(handle)
                raise self._locked() from error
            holder = {
                "pid": os.getpid(),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            }
            self._handle = handle
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _locked(self) -> LockedError:
        try:
            holder = json.loads(self.file.read_text())
            who = f"process {holder['pid']} ({holder['command']}, since {holder['started']} UTC)"
        except (OSError, ValueError, KeyError):  # it holds the lock and has not yet written who it is
            return LockedError(f"another run is at work in {self.file.parent}", "wait for it to end")
        return LockedError(
            f"{who} is at work in {self.file.parent}", f"wait for it to end, or stop it: kill {holder['pid']}"
        )


def empty(folder: Path) -> None:
    """Removes all that a folder holds."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _hold(folder: Path) -> int | None:
    """A lock on the folder itself, so that no lock file is left when it is renamed. None when another has it."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            os.close(handle)
            return None
        if folder.exists() and os.fstat(handle).st_ino == folder.stat().st_ino:
            return handle
        os.close(handle)  # published and renamed by another between the two lines above


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """The disk's own errors as ours; others (a stage's FileNotFoundError) pass."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        if disk_is_full(error):
            raise StoreError(
                f"the disk that holds {path.parent} is full",
                "free some space (runs/ and .workbench/work hold the most), then run the same command: it goes on",
            ) from error
        if isinstance(error, OSError) and error.errno in {errno.EACCES, errno.EROFS, errno.EPERM}:
            raise StoreError(f"no access to {error.filename or path}", "check its permissions") from error
        raise


def disk_is_full(error: BaseException | None) -> bool:
    """Whether that is what an error came of. torch raises a RuntimeError in its place, safetensors one that only says it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
