"""A teacher's config -> a teacher that can be asked. Nothing heavy happens before the first question."""

import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import models
from workbench.config import Runtime, TeacherConfig
from workbench.errors import ModelError, TeacherError
from workbench.ledger import Ledger
from workbench.machine import cores, multiplies_bf16
from workbench.teachers.api import OpenAITeacher, key_from
from workbench.teachers.base import Teacher
from workbench.teachers.batched import BatchTeacher
from workbench.teachers.posted import PostedTeacher

if TYPE_CHECKING:
    from workbench.teachers.reading import GgufReader
    from workbench.teachers.whitebox import TransformersTeacher

LOCAL_TIMEOUT_S = 900.0  # a model on a busy small machine is slow, not dead; a dead one is told by its process


def build_teacher(
    config: TeacherConfig,
    runtime: Runtime,
    ledger: Ledger | None = None,
    lane: AbstractAsyncContextManager[object] | None = None,
) -> Teacher:
    """With `base_url` an API, `hf:...` a transformers model, else a GGUF of the catalogue or by path (fetched if need be).

    With a ledger, an API is asked by a process of its own, which brings its replies there whatever becomes of this one, or
    in batches (`teacher.batch`). Without one, an API's `lane` is held while it has a request.
    """
    runtime = runtime.of(config.model)
    if config.base_url:
        key = key_of(config)
        if ledger is not None and not config.batch:
            return PostedTeacher(config, runtime, ledger, model=known_as(config))
        api = OpenAITeacher(
            config.model,
            base_url=config.base_url,
            key=key,
            licence=config.licence or "unknown",
            timeout_s=runtime.timeout_s,
            identity=known_as(config),
            lane=lane,
            hedge_s=runtime.hedge_s,
        )
        return api if ledger is None else BatchTeacher(api, config.batch, runtime, ledger)
    if config.engine == "torch" or config.model.startswith("hf:") or (config.engine == "auto" and multiplies_bf16()):
        white = white_box(config)
        assert white is not None, "it has no address"
        return white
    from workbench.teachers.embedded import EmbeddedTeacher

    path, model, licence = _gguf(config)
    return EmbeddedTeacher(
        path,
        model=model,
        licence=licence,
        slots=runtime.slots,
        threads=runtime.threads or cores(),
        timeout_s=max(runtime.timeout_s, LOCAL_TIMEOUT_S),
    )


def key_of(config: TeacherConfig) -> str:
    """Its API key; a server on this machine may need none. Raises TeacherError."""
    local = any(host in config.base_url for host in ("127.0.0.1", "localhost", "[::1]"))
    return os.environ.get(config.key_env) or "local" if local else key_from(config.key_env)


def check_name(config: TeacherConfig) -> None:
    """Whether a teacher that is to run here can be one; nothing is fetched. Raises ModelError and TeacherError, which tell how
    others are named."""
    if config.base_url or config.model.startswith("hf:") or config.model in models.CATALOGUE:
        return
    others = "for an API add --set teacher.base_url=URL, for a model of the hub write --teacher hf:owner/name"
    try:
        path = models.known(config.model)
    except ModelError as error:
        hint = error.hint.replace(" or an owner/name hub id", "")
        raise ModelError(f"{error}, and no server is named", f"{hint}; {others}") from None
    if path is None or path.suffix != ".gguf":
        raise TeacherError(f"{config.model} is no GGUF file", others, kind="refused", fatal=True)


def white_box(config: TeacherConfig) -> "TransformersTeacher | None":
    """The teacher in torch, which tells what it thinks of any token, whatever engine writes for it; None behind an API."""
    if config.base_url:
        return None
    from workbench.teachers.whitebox import TransformersTeacher

    if config.model.startswith("hf:"):
        source = known_as(config)
        return TransformersTeacher(source, model=source, licence=config.licence or "unknown")
    path, model, licence = _gguf(config)
    return TransformersTeacher(path, model=f"{model} in torch", licence=licence)


def reader_of(config: TeacherConfig) -> "TransformersTeacher | GgufReader":
    """Who says what a teacher that runs here thinks of rows: torch on a GPU, on a CPU that multiplies in bf16, or where that is
    asked for; else llama.cpp, which reads a GGUF as it is. Raises TeacherError, ModelError."""
    from workbench.students.load import best_device
    from workbench.teachers.reading import GgufReader

    slow = best_device().type == "cpu" and not multiplies_bf16()
    if (config.engine == "llama.cpp" or (config.engine == "auto" and slow)) and not config.model.startswith("hf:"):
        path, model, _ = _gguf(config)
        return GgufReader(path, model=f"{model} in llama.cpp")
    white = white_box(config)
    assert white is not None, "the config refuses one behind an API"
    return white


def _gguf(config: TeacherConfig) -> tuple[Path, str, str]:
    """Its file, fetched if need be, its name in the ledger and its licence. Raises TeacherError, ModelError."""
    check_name(config)
    known = models.CATALOGUE.get(config.model)
    path = models.path_or_name(config.model)
    model = f"{config.model} {models.local_identity(config.model)}".strip()
    return path, model, config.licence or (known.licence if known else "unknown")


def known_as(config: TeacherConfig) -> str:
    """The teacher's name in the ledger; there, a GGUF's has more behind it after a space: which file, which engine."""
    return f"{config.model}@{config.base_url}" if config.base_url else config.model.removeprefix("hf:")
