"""The bill of materials: what an expert was made of. It travels in the GGUF's own metadata, so that the file alone tells.

workbench.bill_of_materials   JSON, a `Bill`
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from workbench import methods, models
from workbench.config import Config, TeacherConfig
from workbench.declaration import Task
from workbench.licences import Policy
from workbench.types import Frozen, Row

KEY = "workbench.bill_of_materials"
UNKNOWN = "unknown"


class Material(Frozen):
    """Training rows of one source. `teacher` and `licence` are empty for rows that no teacher had a part in."""

    source: str
    rows: int
    teacher: str = ""
    licence: str = ""


class Bill(Frozen):
    """`shard` is the sha256 of the training rows; `calls` is how many of them rest on a teacher's call of their own."""

    workbench: str
    task: str
    title: str
    task_version: int
    student: str
    student_licence: str
    teacher: str
    teacher_licence: str
    shard: str
    calls: int
    rows: tuple[Material, ...]
    method: str = "sft"  # files of before tell none
    method_title: str = ""
    asides: int = 0  # rows whose rationale is learned beside the answer
    readers: tuple[tuple[str, str], ...] = ()  # other models whose thoughts were learned, and their licences
    terms: tuple[Policy, ...] = ()  # of those that taught, and who accepted them, as of the day the file was made


def bill_of(
    task: Task, config: Config, rows: Iterable[Row], shard: str, round_: int = 1, terms: Iterable[Policy] = ()
) -> Bill:
    """`round_`: the one whose file it goes into. `terms`: of each teacher of the run."""
    held, method = list(rows), methods.named(config.distil.method).of_round(round_)
    counts = Counter((row.source, joined(map(_name, row.teacher.split(", "))), row.licence) for row in held)
    return Bill(
        workbench=version("distillation-workbench"),
        task=task.name,
        title=task.title,
        task_version=task.version,
        student=_name(config.student.model),
        student_licence=licence_of_model(config.student.model),
        teacher=_name(config.teacher.model),
        teacher_licence=licence_of(config.teacher),
        shard=shard,
        calls=len({row.call for row in held if row.call}),
        method=method.name,
        method_title=method.told(config.distil),
        asides=sum(bool(row.aside) for row in held),
        readers=tuple(_readers(config, method)),
        terms=tuple(dict.fromkeys(terms)),
        rows=tuple(
            Material(source=source, rows=count, teacher=teacher, licence=licence)
            for (source, teacher, licence), count in sorted(counts.items())
        ),
    )


def _readers(config: Config, method: methods.Method) -> Iterator[tuple[str, str]]:
    if method.name == "parent":
        yield _name(config.distil.parent), licence_of_model(config.distil.parent)
    if not method.captures:
        return
    if assistant := config.distil.assistant:
        yield _name(assistant), licence_of_model(assistant)
    for each in config.pool.teachers:
        if each.reads:
            yield _name(each.model), licence_of(each)


def joined(names: Iterable[str]) -> str:
    """Names of several in one, each once: a recombined row has more than one already."""
    return ", ".join(sorted({name for some in names for name in some.split(", ") if name}))


def licence_of(teacher: TeacherConfig) -> str:
    """As it was set; for a model that runs here, as the catalogue has it."""
    return teacher.licence or (UNKNOWN if teacher.base_url else licence_of_model(teacher.model))


def told(bill: Bill) -> Iterator[str]:
    """In lines for people."""
    yield f"{bill.task} (version {bill.task_version}): {bill.title}"
    yield f"student  {bill.student}, {bill.student_licence}"
    yield f"teacher  {bill.teacher}, {bill.teacher_licence}"
    yield f"rows     {sum(item.rows for item in bill.rows):,}, sha256 {bill.shard}, {bill.calls:,} calls of a teacher"
    for item in bill.rows:
        origin = f" by {item.teacher}, {item.licence or UNKNOWN}" if item.teacher else ""
        yield f"         {item.rows:,} {item.source}{origin}"
    if bill.method != "sft" or bill.method_title not in ("", methods.Sft.title):
        yield f"method   {bill.method}{f': {bill.method_title}' if bill.method_title else ''}"
    if bill.asides:
        yield f"         {bill.asides:,} with a rationale that is learned beside the answer"
    for name, licence in bill.readers:
        yield f"read by  {name}, {licence}"
    for policy in bill.terms:
        yield f"terms    {policy.sentence}"
    yield f"made by  distillation workbench {bill.workbench}"


def _name(model: str) -> str:
    """Without what is this machine's own: a server's address, a file's folder, size and time."""
    name = model.partition("@")[0].partition(" ")[0]
    if (made_of := models.origin(name)) != name:
        return f"{Path(name).name}, of {_name(made_of)}"
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def licence_of_model(model: str) -> str:
    """As the catalogue has it, of a folder of the workbench's own that of the model it was made of."""
    found = models.CATALOGUE.get(models.origin(model))
    return found.licence if found else UNKNOWN
