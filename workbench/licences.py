"""May a teacher's outputs train a model? A dated table of terms, and which of its entries a teacher falls under.

The table is licences.toml beside this file; a licences.toml in the project's folder has the same form, and its entries come
first. The first entry that matches wins: by the host of `base_url`, or by the last part of the model's name.

    policy_of(teacher, table(Path.cwd()))   -> Policy, `unknown` where no entry names the teacher

Not guaranteed: it is a reading of public documents as of a day, no legal advice; a file whose name does not say what it is
remains unknown; where a service that has no entry serves known weights, only the weights' licence is judged.
"""

import re
import tomllib
from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from workbench.config import TeacherConfig
from workbench.digest import digest
from workbench.errors import ConfigError
from workbench.types import Frozen

FILE = "licences.toml"
LOCAL = ("localhost", "127.0.0.1", "::1")
Told = Annotated[str, BeforeValidator(lambda value: " ".join(value.split()) if isinstance(value, str) else value)]


class Policy(Frozen):
    """What the table says of one teacher: what a run writes down. `unread` is a host whose own terms have no entry."""

    name: str = "unknown"
    training: Literal["allowed", "conditions", "forbidden", "unknown"] = "unknown"
    clause: str = ""
    source: str = ""
    checked: date | None = None
    note: str = ""
    why: str
    unread: str = ""
    accepted_by: str = ""
    accepted_at: str = ""

    @property
    def clear(self) -> bool:
        """Nothing is to be told about it."""
        return self.training == "allowed" and not self.unread

    @property
    def sentence(self) -> str:
        """All of it in one line, for a terminal and for the report."""
        if self.training == "unknown":
            return f"unknown: {self.why}; whether its outputs may train a model is for you to find out"
        told = f"{self.name}, training {self.training}: {self.clause} ({self.source}, as of {self.checked})"
        if self.unread:
            told += f"; the terms of {self.unread} itself are not in the table"
        return f"{told}; accepted by {self.accepted_by} at {self.accepted_at}" if self.accepted_by else told


class Entry(Frozen):
    """One [[policy]] of licences.toml; what its fields mean is told at the head of that file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    training: Literal["allowed", "conditions", "forbidden"]
    clause: Told = Field(min_length=1)
    source: str = Field(min_length=1)
    checked: date
    hosts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    note: Told = ""

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if not self.hosts and not self.models:
            raise ValueError(f"{self.name} names neither hosts nor models")
        return self

    def policy(self, why: str, unread: str = "") -> Policy:
        return Policy.model_validate({**self.model_dump(exclude={"hosts", "models"}), "why": why, "unread": unread})


class _File(Frozen):
    policy: tuple[Entry, ...] = ()


def table(project: Path) -> tuple[Entry, ...]:
    """The project's own entries, then the built-in ones that they do not replace. Raises ConfigError naming the file."""
    own = _read(project / FILE) if (project / FILE).is_file() else ()
    names = {entry.name for entry in own}
    return (*own, *(entry for entry in _read(Path(__file__).with_name(FILE)) if entry.name not in names))


def policy_of(teacher: TeacherConfig, entries: Sequence[Entry]) -> Policy:
    """The first entry that names the teacher's host or its model."""
    host = urlsplit(teacher.base_url).hostname or ""
    model = _plain(teacher.model)
    for entry in entries:
        if pattern := _first(host, entry.hosts):
            return entry.policy(f"its host {host} fits {pattern}")
        if pattern := _first(model, entry.models):
            return entry.policy(f"its model {model} fits {pattern}", "" if host in ("", *LOCAL) else host)
    return Policy(why=f"no entry of the table names {model}{f' or {host}' if host else ''}")


def clause_digest(clause: str) -> str:
    """What an acceptance is bound to: a clause that reads otherwise is another one."""
    return digest(clause)


def _read(file: Path) -> tuple[Entry, ...]:
    try:
        return _File.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))).policy
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        fields = ", ".join(Entry.model_fields)
        raise ConfigError(
            f"{file}: {place}: {first['msg'].removeprefix('Value error, ')}", f"fields of a [[policy]]: {fields}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", "check its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}", "mend the TOML") from None


def _plain(model: str) -> str:
    """`hf:owner/Name`, a path or a server's `name:tag` -> the last part, as the patterns are written."""
    return re.sub(r"[\s_:]+", "-", model.removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1].lower())


def _first(name: str, patterns: Sequence[str]) -> str:
    return next((pattern for pattern in patterns if name and fnmatchcase(name, pattern)), "")
