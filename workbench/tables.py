"""Dated tables of what is written elsewhere about teachers: a TOML file beside this one, and one of the same name in the
project's folder, whose entries come first.

The patterns of `hosts` and `models` are shell patterns, matched against the host of `base_url` and the last part of the
model's name in small letters, with `-` for `:`, `_` and spaces.
"""

import re
import tomllib
from collections.abc import Sequence
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from workbench.config import TeacherConfig
from workbench.errors import ConfigError
from workbench.types import Frozen

Told = Annotated[str, BeforeValidator(lambda value: " ".join(value.split()) if isinstance(value, str) else value)]


class Entry(Frozen):
    """What one entry of any table has. `checked`: the day as of which `source` said so."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
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


Known = TypeVar("Known", bound=Entry)


def entries(kind: type[Known], section: str, file: str, project: Path) -> tuple[Known, ...]:
    """The [[section]] entries of the project's own `file`, then the built-in ones that they do not replace by name. Raises
    ConfigError naming the file."""
    own = _read(kind, section, project / file) if (project / file).is_file() else ()
    names = {entry.name for entry in own}
    built_in = _read(kind, section, Path(__file__).with_name(file))
    return (*own, *(entry for entry in built_in if entry.name not in names))


def host_of(teacher: TeacherConfig) -> str:
    return urlsplit(teacher.base_url).hostname or ""


def plain(model: str) -> str:
    """`hf:owner/Name`, a path or a server's `name:tag` -> the last part, as the patterns are written."""
    return re.sub(r"[\s_:]+", "-", model.removeprefix("hf:").rstrip("/").rsplit("/", 1)[-1].lower())


def first(name: str, patterns: Sequence[str]) -> str:
    """The first pattern that fits, or nothing."""
    return next((pattern for pattern in patterns if name and fnmatchcase(name, pattern)), "")


def _read(kind: type[Known], section: str, file: Path) -> tuple[Known, ...]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        rows = found.pop(section, [])
        if found or not isinstance(rows, list):
            raise ConfigError(f"{file}: only [[{section}]] may stand there", f"mend {', '.join(found) or section}")
        return tuple(_entry(kind, row, f"{section}.{place}", file) for place, row in enumerate(rows))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", "check its permissions") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}", "mend the TOML") from None


def _entry(kind: type[Known], row: object, place: str, file: Path) -> Known:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join((place, *(str(part) for part in wrong["loc"])))
        told = wrong["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{file}: {where}: {told}", f"fields of an entry: {', '.join(kind.model_fields)}") from None
