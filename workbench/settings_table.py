"""All settings in tables, one a section: read from the config models, and from the comments beside their fields.

`workbench settings` prints them; docs/settings.md is what it prints.
"""

import ast
import inspect
import io
import json
import tokenize
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from workbench.config import PROFILES, Config, Member, load_config
from workbench.config_text import section_of
from workbench.declared import nearest
from workbench.errors import ConfigError

HEAD = """\
# Settings

Each is `section.key`: as `--set train.lr=0.0005`, or in a TOML file for `--config`, where `[train]` stands above `lr = 0.0005`.
A run's own `config.toml` holds all of its settings and serves as such a file. What is named later holds: profile, the task's
`profiles`, `--config`, `--set`. Where one default stands, quick and full have the same. Where a setting may be none, `none` is
written: `--set train.max_minutes=none`. `workbench settings` prints this page."""
BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "min_length": "entries from"}
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "none"}


def tables(section: str = "") -> str:
    """Markdown of all sections, or of one. Raises ConfigError with the nearest name."""
    sections = {name: field for name, field in Config.model_fields.items() if name != "profile"}
    name = section.partition(".")[0]
    if not name:
        return "\n\n".join([HEAD, *(_table(name, field) for name, field in sections.items())])
    if name not in sections:
        near = nearest(name, sections)
        hint = f"did you mean {near}? " if near else ""
        raise ConfigError(f"there is no section {name!r}", f"{hint}there are {', '.join(sections)}")
    return _table(name, sections[name])


def _table(section: str, field: FieldInfo) -> str:
    model = section_of(field.annotation)
    assert model is not None, "each section is a model"
    lines = [f"## {section}", "", " ".join(str(model.__doc__).split())]
    if section == "pool":
        model = Member
        lines += [
            "",
            f"Each of `[[pool.teachers]]` has what `teacher` has, and: {' '.join(str(Member.__doc__).split())}",
        ]
    lines += ["", "| setting | type | default: quick / full | meaning |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(section, model)]
    return "\n".join(lines)


def _rows(section: str, model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    meanings = comments(model)
    for name, field in model.model_fields.items():
        if name in model.__annotations__:  # its own, not a parent's
            told = meanings[name] or ("as above" if f"`{name}`" in str(model.__doc__) else "")
            yield f"`{name}`", _type(field.annotation) + _bounds(field), _default(section, name, field), told


def comments(model: type[BaseModel]) -> dict[str, str]:
    """What is said beside each of a model's own fields."""
    source = inspect.getsource(model)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef), "it is a model's source"
    return {
        node.target.id: " ".join(
            said[line].replace("None:", "none:")
            for line in range(node.lineno, (node.end_lineno or 0) + 1)
            if line in said
        )
        for node in made.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kind, inner = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if kind in (Union, UnionType):
        return " or ".join(map(_type, inner))
    if kind is dict and (section := section_of(annotation)) is not None:
        return f"by name: {', '.join(f'`{name}`' for name in section.model_fields)}"
    if kind is dict:
        return f"by name: {_type(inner[1])}"
    if kind is tuple:
        return f"list of {_type(inner[0])}" if inner[-1] is Ellipsis else f"[{', '.join(map(_type, inner))}]"
    return NAMES.get(annotation, str(annotation))


def _bounds(field: FieldInfo) -> str:
    found = {name: getattr(one, name) for one in field.metadata for name in BOUNDS if hasattr(one, name)}
    return "".join(f", {word} {found[name]:,}" for name, word in BOUNDS.items() if name in found)


def _default(section: str, name: str, field: FieldInfo) -> str:
    if section == "pool":
        return _value(field.default)
    quick, full = (_value(getattr(getattr(load_config(profile), section), name)) for profile in PROFILES)
    return quick if quick == full else f"{quick} / {full}"


def _value(value: Any) -> str:
    return "none" if value is None else f"`{json.dumps(value)}`"
