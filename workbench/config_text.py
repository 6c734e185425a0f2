"""Settings as people write them: a TOML file, `section.key=value`, and what is said of one that is wrong."""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from workbench.errors import ConfigError


def toml(file: Path) -> dict[str, Any]:
    """Raises ConfigError."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {file}", "give an existing TOML file") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", "give an existing TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}", "mend the TOML") from None


def setting(item: str) -> dict[str, Any]:
    """Of `--set section.key=value`. Raises ConfigError."""
    key, sign, raw = item.partition("=")
    if not sign:
        raise ConfigError(f"--set {item}: no `=`", "write --set section.key=value, as in --set train.lr=0.0005")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is text
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


NONE = "none"  # TOML has no word for it


def with_none(read: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """What was read for `model`; the text `none` is None where a setting may be that."""

    def meant(value: Any, annotation: Any) -> Any:
        if isinstance(value, Mapping) and get_origin(annotation) is dict:
            return {name: meant(each, get_args(annotation)[1]) for name, each in value.items()}
        inner = section_of(annotation)
        if isinstance(value, Mapping) and inner is not None:
            return with_none(value, inner)
        if isinstance(value, list) and inner is not None:
            return [meant(each, inner) for each in value]
        return None if value == NONE and NoneType in get_args(annotation) else value

    known = model.model_fields
    return {key: meant(value, known[key].annotation) if key in known else value for key, value in read.items()}


def without_none(value: Any) -> Any:
    """The other way, for a TOML file."""
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_none(each) for each in value]
    return NONE if value is None else value


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a setting holds, alone or in a list; None where it is a plain value."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def refused(
    error: ValidationError, model: type[BaseModel], file: Path | None, read: Any, typed: Sequence[Any]
) -> ConfigError:
    """The first thing that is wrong, by the name of its setting. `read`: what stands in `file`, which is named where it is at
    fault; `typed`: what stands above that."""
    first = error.errors()[0]
    loc, kind, value = first["loc"], first["type"], first["input"]
    place = ".".join(map(str, loc))
    by_file = _holds(read, loc) and not any(_holds(each, loc) for each in typed)
    where = f"{file}: " if by_file else ""
    table = f"`workbench settings {loc[0]}`" if loc and loc[0] in model.model_fields else "`workbench settings`"
    if kind == "extra_forbidden":
        inner = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else ""
        name = f"{place}.{inner}" if inner else place
        return ConfigError(f"{where}{name}: there is no such setting", f"{_meant(model, loc, name)}{table} shows all")
    if kind == "model_type":
        key = next(iter(_inside(model, loc).model_fields))
        return ConfigError(f"{where}{place} is a section, no value", f"write {place}.{key}=...; {table} shows all")
    if kind == "tuple_type" and isinstance(value, str | int | float):
        of_sections = _inside(model, loc) is not _inside(model, loc[:-1])
        right = f"{place}=" + (f"[{{model={json.dumps(value)}, ...}}]" if of_sections else json.dumps([value]))
        return ConfigError(
            f"{where}{place}: a list is wanted", f"write {right}" if by_file else f"write --set '{right}'"
        )
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{where}{place}: {message}" if place else message, f"{table} tells what it may be")


def _holds(data: Any, loc: Sequence[int | str]) -> bool:
    for part in loc:
        if isinstance(part, int):
            return True
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return bool(loc)


def _inside(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The section at a place, as far as there are sections."""
    for part in loc:
        field = model.model_fields.get(str(part))
        model = (section_of(field.annotation) if field else None) or model
    return model


def _meant(model: type[BaseModel], loc: Sequence[int | str], name: str) -> str:
    """`did you mean ...? `, by the same name in another section, else by the nearest; empty where nothing is near."""
    if any(isinstance(part, int) for part in loc):  # of a list
        known = list(_inside(model, loc[:-1]).model_fields)
        near = difflib.get_close_matches(str(loc[-1]), known, n=3)
    else:
        known = [*leaves(model), *model.model_fields]
        own = name.rpartition(".")[2]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        near = near or [one for one in known if one.rpartition(".")[2] == own]
        near = near or difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}? " if near else ""


def leaves(model: type[BaseModel]) -> list[str]:
    """The dotted names of all settings that stand in sections."""
    return [
        f"{section}.{name}"
        for section, field in model.model_fields.items()
        if (inner := section_of(field.annotation)) is not None
        for name in inner.model_fields
    ]
