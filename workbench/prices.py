"""What a teacher costs, where nobody said: a dated table of prices by host and model.

The table is prices.toml beside this file; a prices.toml in the project's folder has the same form, and its entries come
first. The first entry whose host and model both fit wins. `teacher.price_in` and `price_out` stand above both.

    priced(teacher, project)   -> (the teacher with its prices, where they are from; "" where nothing was looked up)

Not guaranteed: prices change without notice, and what a provider gives off for cached tokens is not reckoned with.
"""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from workbench import tables
from workbench.config import Config, TeacherConfig

FILE = "prices.toml"


class Entry(tables.Entry):
    """One [[price]]: US dollars a million tokens read and written."""

    price_in: float = Field(ge=0)
    price_out: float = Field(ge=0)

    @model_validator(mode="after")
    def _names_both(self) -> Self:
        if not self.hosts or not self.models:
            raise ValueError(f"{self.name} must name hosts and models: the same model costs otherwise elsewhere")
        return self

    @property
    def sentence(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return f"{self.price_in:g} and {self.price_out:g} a million tokens ({self.source}, as of {self.checked}{note})"


def priced(teacher: TeacherConfig, project: Path) -> tuple[TeacherConfig, str]:
    """Raises ConfigError for a table that cannot be read."""
    if not teacher.base_url or teacher.model_fields_set & {"price_in", "price_out"}:
        return teacher, ""
    host, model = tables.host_of(teacher), tables.plain(teacher.model)
    for entry in tables.entries(Entry, "price", FILE, project):
        if tables.first(host, entry.hosts) and tables.first(model, entry.models):
            return teacher.model_copy(update={"price_in": entry.price_in, "price_out": entry.price_out}), entry.sentence
    return teacher, ""


def unknown(config: Config) -> list[str]:
    """A line for each teacher behind an API whose price nobody said, of a config whose prices were looked up."""
    return [
        f"no price is known for {each.model}: max_money stops nothing; set {where}price_in and {where}price_out"
        for each in config.teachers
        if each.base_url and not each.model_fields_set & {"price_in", "price_out"}
        for where in ["teacher." if each is config.teacher else "its "]
    ]
