"""Before the teacher is asked: its terms looked up, and who accepted which clause, in <project>/.workbench/terms.jsonl.

One JSON line an acceptance: who, when, which clause from which source, and the command. It holds in this project until the
clause reads otherwise; then it is asked for anew, and the old line stays.
"""

import getpass
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from workbench.config import TeacherConfig
from workbench.errors import ConfigError, StoreError, TermsError
from workbench.licences import FILE as TABLE
from workbench.licences import Entry, Policy, clause_digest, policy_of, table
from workbench.types import Frozen

FILE = "terms.jsonl"


class Acceptance(Frozen):
    """One line of terms.jsonl. `digest` is of the clause."""

    at: str
    who: str
    name: str
    training: str
    clause: str
    source: str
    checked: date
    digest: str
    command: str


def settle(teacher: TeacherConfig, project: Path, accept: Sequence[str], command: str, *, dry: bool) -> Policy:
    """The teacher's policy with who accepted it. What is accepted now is written down, unless `dry`.

    Raises TermsError where the terms forbid training and nobody accepted that, ConfigError for a name that is none.
    """
    entries = table(project)
    file = project / ".workbench" / FILE
    before = read_acceptances(file)
    offered = [_accept(_entry(name, entries), command) for name in dict.fromkeys(accept)]
    now = [item for item in offered if not _held(before, item.name, item.digest)]
    policy = _with_acceptance(policy_of(teacher, entries), [*before, *now])
    if policy.training == "forbidden" and not policy.accepted_by:
        raise _refused(policy, before)
    if now and not dry:
        _write(file, [*before, *now])
    return policy


def described(project: Path, teacher: TeacherConfig | None) -> Iterator[str]:
    """The table in lines, or which of its entries a teacher falls under, why, and who accepted it."""
    entries = table(project)
    if teacher is None:
        wide = max(len(entry.name) for entry in entries)
        yield from (f"{e.name:{wide}}  {e.training:10}  {e.checked}  {e.source}" for e in entries)
        return
    policy = _with_acceptance(policy_of(teacher, entries), read_acceptances(project / ".workbench" / FILE))
    yield policy.sentence
    if policy.training == "unknown":
        yield f"to say what holds, write an entry into {project / TABLE}"
        return
    yield f"because {policy.why}"
    if policy.note:
        yield f"note: {policy.note}"
    if policy.training == "forbidden" and not policy.accepted_by:
        yield f"a run with it stops, unless you give --accept-terms {policy.name}"


def read_acceptances(file: Path) -> list[Acceptance]:
    """All lines, oldest first. Raises StoreError for one that is none: what was accepted is not guessed."""
    found = []
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            found.append(Acceptance.model_validate_json(line))
        except ValidationError:
            raise StoreError(f"{file}, line {number} is no acceptance", "mend it, or move the file away") from None
    return found


def _entry(name: str, entries: Sequence[Entry]) -> Entry:
    found = next((entry for entry in entries if entry.name == name), None)
    if found is None:
        raise ConfigError(
            f"--accept-terms {name}: the table has no such entry", f"there are {', '.join(e.name for e in entries)}"
        )
    return found


def _accept(entry: Entry, command: str) -> Acceptance:
    return Acceptance(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        who=_who(),
        digest=clause_digest(entry.clause),
        command=command,
        **entry.model_dump(include={"name", "training", "clause", "source", "checked"}),
    )


def _held(log: Sequence[Acceptance], name: str, digest: str) -> Acceptance | None:
    return next((item for item in log if (item.name, item.digest) == (name, digest)), None)


def _with_acceptance(policy: Policy, log: Sequence[Acceptance]) -> Policy:
    held = _held(log, policy.name, clause_digest(policy.clause))
    return policy.model_copy(update={"accepted_by": held.who, "accepted_at": held.at}) if held else policy


def _refused(policy: Policy, before: Sequence[Acceptance]) -> TermsError:
    old = next((item for item in reversed(before) if item.name == policy.name), None)
    changed = f"; the clause is another one than {old.who} accepted at {old.at}" if old else ""
    return TermsError(
        f"the terms of {policy.name} speak against training on its outputs: {policy.clause} "
        f"({policy.source}, as of {policy.checked}){changed}",
        f"take another teacher (`workbench licences`), or, where you have the right: --accept-terms {policy.name}",
    )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def _write(file: Path, log: Sequence[Acceptance]) -> None:
    part = file.with_name(".terms.jsonl.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(f"{item.model_dump_json()}\n" for item in log), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error}", "make room, or run elsewhere") from error
