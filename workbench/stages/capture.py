"""What the teacher thinks of each token of the shard's rows -> a file of the likeliest next tokens, to learn from.

A teacher that runs here reads each row once, its few-shot block before it, as if it had written the answer itself; many rows at
once, the block read once (`students/generate.py`, or `edge/scorer.py` in llama.cpp). A row that came several times into the
shard is read once. Where the method says so, it reads what the student wrote instead.

Where an assistant was trained, it is the one that reads, prompted as it was trained. Where `teacher.top_logprobs` were asked
for, the teacher told them with its answers, and they are in the ledger: those of the rows that it wrote, letter by letter, are
taken from there.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.digest import digest, file_digest
from workbench.errors import LogitError
from workbench.logits import LogitFile, LogitWriter
from workbench.logits import Row as Coded
from workbench.methods import Captured
from workbench.stages.attempt import own_rows
from workbench.stages.context import Context, read_json, read_jsonl, write_json
from workbench.stages.label import assistant_of
from workbench.stages.ticker import Ticker
from workbench.teachers.build import reader_of
from workbench.teachers.prompts import Labeler
from workbench.teachers.reading import Asked, GgufReader
from workbench.types import Example, Frozen, Message, Row, TokenLogprobs

if TYPE_CHECKING:
    from workbench.teachers.whitebox import TransformersTeacher

Asks = Callable[[dict[str, Row]], Asked]
ABOUT = "capture.json"


class Capture(Frozen):
    """A teacher's file, beside capture.json. `tokenizer` is the folder of the teacher's; empty where pieces.json names its
    tokens."""

    file: str
    tokenizer: str
    weight: float
    teacher: str
    rows: int
    tokens: int
    bytes_a_token: float
    k: int


class Captures(Frozen):
    by: tuple[Capture, ...]


def run(context: Context) -> None:
    """Writes a file a teacher that reads, and capture.json (`Captures`). Raises LogitError where nothing was told."""
    config, found = context.config, list[Capture]()
    teacher = config.teacher
    told = "attempt" not in context.inputs and any(each.top_logprobs for each in config.teachers)
    if config.distil.assistant:
        found.append(_read(context, assistant_of(context), 1.0, _as_student))
    else:
        if told:
            found.append(_told(context))
        if not (teacher.base_url or (told and teacher.top_logprobs)):
            found.append(_read(context, reader_of(teacher), 1.0, partial(_as_teacher, context)))
    for member in config.pool.teachers:
        if member.reads:
            found.append(_read(context, reader_of(member), member.reads, partial(_as_teacher, context)))
    write_json(context.out / ABOUT, Captures(by=tuple(found)).model_dump(mode="json"))


def captured(folder: Path) -> list[Captured]:
    """What is in the folder of a capture."""
    made = Captures.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
    return [Captured(folder / each.file, Path(each.tokenizer or folder), each.weight) for each in made.by]


def _told(context: Context) -> Capture:
    """From the ledger, twice: for the pieces, then for what was said of them."""
    from workbench.students.pieces import FILE as PIECES
    from workbench.students.pieces import Pieces
    from workbench.students.taught import name_of

    teachers = [each for each in context.config.teachers if each.top_logprobs]
    teacher, most = ", ".join(each.model for each in teachers), 1 + max(each.top_logprobs for each in teachers)
    rows = {name_of(row.prompt, row.completion): row for row in _rows(context) if row.call}
    pieces, likeliest = Pieces(most), 0

    def found() -> Iterator[tuple[str, Coded]]:
        nonlocal likeliest
        for name, row in rows.items():
            reply = context.ledger.get(row.call)
            if reply is None or reply.text.strip() != row.completion:
                continue
            coded = pieces.row(reply.top_logprobs, row.completion)
            if coded is not None:
                likeliest = max(likeliest, *map(_told_at, reply.top_logprobs))
                yield name, coded

    told = sum(1 for _ in found())
    if not told:
        raise LogitError(
            f"none of the {len(rows)} rows of {teacher} holds log-probabilities: it writes its answers otherwise than the "
            "student is to write them, or wrote inputs alone",
            "learn from its text (--method sft)",
        )
    pieces.write(context.out)
    file = context.out / "logits.bin"
    with LogitWriter(
        file,
        tokenizer=f"the pieces of {teacher}",
        fingerprint=file_digest(context.out / PIECES),
        vocabulary=len(pieces),
        k=most,
        teacher=teacher,
    ) as writer:
        for name, coded in found():
            writer.add(name, coded)
    context.say(
        f"capture: with {told} of the {len(rows)} rows of teachers the {likeliest} likeliest tokens were told"
        + (f", of {most - 1} that were asked for" if likeliest < most - 1 else "")
    )
    return _made(context, file, teacher, "", 1.0, likeliest)


def _told_at(place: TokenLogprobs) -> int:
    """How many of the likeliest: the one that was written may come behind them."""
    return max(1, len(place.top) - (place.top[-1][0] == place.token))


def _read(context: Context, teacher: "TransformersTeacher | GgufReader", weight: float, asks: Asks) -> Capture:
    """By a teacher that runs here."""
    from workbench.students.taught import name_of, tokenizer_digest

    folder = teacher.folder()
    found = sorted(_rows(context), key=lambda row: row.source == "recombine")
    named = {name_of(row.prompt, row.completion): row for row in found}
    most = (
        context.config.distil.rows if "attempt" not in context.inputs else 0
    )  # of attempts all: their text is not learned
    rows = dict(islice(named.items(), most or None))
    asked = asks(rows)
    tick = Ticker(context.say, "capture", "rows", len(rows))
    file = context.out / f"logits-{digest(teacher.model)[:8]}.bin"
    with LogitWriter(
        file,
        tokenizer=str(folder),
        fingerprint=tokenizer_digest(folder),
        vocabulary=teacher.vocabulary,
        k=context.config.distil.k,
        teacher=teacher.model,
    ) as writer:
        for name, row in teacher.score(asked, context.config.distil.k):
            writer.add(name, row)
            tick()
    return _made(context, file, teacher.model, str(folder), weight)


def _made(context: Context, path: Path, teacher: str, tokenizer: str, weight: float, k: int = 0) -> Capture:
    """`k`: so many of the likeliest were told, at most; 0: as many as the file has room for."""
    with LogitFile(path) as file:
        context.say(
            f"capture: {teacher}: {len(file)} rows, {file.tokens} tokens, {file.bytes_a_token:.1f} bytes a token"
        )
        return Capture(
            file=path.name,
            tokenizer=tokenizer,
            weight=weight,
            teacher=teacher,
            rows=len(file),
            tokens=file.tokens,
            bytes_a_token=round(file.bytes_a_token, 1),
            k=k or file.k,
        )


def _rows(context: Context) -> Iterable[Row]:
    if "attempt" in context.inputs:
        return own_rows(context)
    return read_jsonl(context.inputs["select"] / "rows.jsonl", Row)


def _as_student(rows: dict[str, Row]) -> Asked:
    """As the assistant was trained."""
    return [(name, (Message(role="user", content=row.prompt),), row.completion) for name, row in rows.items()]


def _as_teacher(context: Context, rows: dict[str, Row]) -> Asked:
    """With the few-shot block before each that the teacher's answers were asked for with."""
    mode = str(read_json(context.inputs["shots"] / "shots.json")["mode"])
    labeler = Labeler(context.task, context.examples("seed"), mode, context.config.shots)
    return [
        (
            name,
            labeler.messages(Example(id=row.id, input=row.input, split="new", source=row.source)),
            row.completion,
        )
        for name, row in rows.items()
    ]
