"""May a teacher's outputs train a model? A dated table of terms, and which of its entries a teacher falls under.

The table is licences.toml beside this file; a licences.toml in the project's folder has the same form, and its entries come
first. The first entry that matches wins: by the host of `base_url`, or by the last part of the model's name.

    policy_of(teacher, table(Path.cwd()))   -> Policy, `unknown` where no entry names the teacher

Not guaranteed: it is a reading of public documents as of a day, no legal advice; a file whose name does not say what it is
remains unknown; where a service that has no entry serves known weights, only the weights' licence is judged.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field

from workbench import tables
from workbench.config import TeacherConfig
from workbench.digest import digest
from workbench.types import Frozen

FILE = "licences.toml"
LOCAL = ("localhost", "127.0.0.1", "::1")


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


class Entry(tables.Entry):
    """One [[policy]] of licences.toml; what its fields mean is told at the head of that file."""

    training: Literal["allowed", "conditions", "forbidden"]
    clause: tables.Told = Field(min_length=1)

    def policy(self, why: str, unread: str = "") -> Policy:
        return Policy.model_validate({**self.model_dump(exclude={"hosts", "models"}), "why": why, "unread": unread})


def table(project: Path) -> tuple[Entry, ...]:
    """The project's own entries, then the built-in ones that they do not replace. Raises ConfigError naming the file."""
    return tables.entries(Entry, "policy", FILE, project)


def policy_of(teacher: TeacherConfig, entries: Sequence[Entry]) -> Policy:
    """The first entry that names the teacher's host or its model."""
    host, model = tables.host_of(teacher), tables.plain(teacher.model)
    for entry in entries:
        if pattern := tables.first(host, entry.hosts):
            return entry.policy(f"its host {host} fits {pattern}")
        if pattern := tables.first(model, entry.models):
            return entry.policy(f"its model {model} fits {pattern}", "" if host in ("", *LOCAL) else host)
    return Policy(why=f"no entry of the table names {model}{f' or {host}' if host else ''}")


def clause_digest(clause: str) -> str:
    """What an acceptance is bound to: a clause that reads otherwise is another one."""
    return digest(clause)
