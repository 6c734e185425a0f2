"""What the teacher thinks of each token of the shard's rows -> a file of the likeliest next tokens, to learn from.

A teacher that runs here reads each row once, its few-shot block before it, as if it had written the answer itself; many rows at
once, the block read once (`students.generate`). A row that came several times into the shard is read once. Where the method
says so, it reads what the student wrote instead.

Where `teacher.top_logprobs` were asked for, it told them with its answers, and they are in the ledger: those of the rows that
it wrote, letter by letter, are taken from there.
"""

from collections.abc import Iterable, Iterator
from time import monotonic

from workbench import models
from workbench.digest import file_digest
from workbench.errors import LogitError, StudentError
from workbench.logits import LogitFile, LogitWriter
from workbench.logits import Row as Coded
from workbench.stages.attempt import own_rows
from workbench.stages.context import Context, read_json, read_jsonl, write_json
from workbench.teachers.build import white_box
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Row

FILE = "logits.bin"
TOLD_S = 30.0


def run(context: Context) -> None:
    """Writes logits.bin and capture.json, whose `tokenizer` is the folder of the teacher's; empty where pieces.json beside it
    names its tokens. Raises StudentError where the student is the larger one, LogitError where nothing was told."""
    tokenizer = _told(context) if context.config.teacher.top_logprobs else _read(context)
    with LogitFile(context.out / FILE) as file:
        made = {"rows": len(file), "tokens": file.tokens, "bytes_a_token": round(file.bytes_a_token, 1), "k": file.k}
    write_json(context.out / "capture.json", {**made, "tokenizer": tokenizer})
    context.say(f"capture: {made['rows']} rows, {made['tokens']} tokens, {made['bytes_a_token']} bytes a token")


def _told(context: Context) -> str:
    """From the ledger, twice: for the pieces, then for what was said of them."""
    from workbench.students.pieces import FILE as PIECES
    from workbench.students.pieces import Pieces
    from workbench.students.taught import name_of

    teacher, most = context.config.teacher.model, context.config.teacher.top_logprobs + 1  # and the one written
    rows = {name_of(row.prompt, row.completion): row for row in _rows(context) if row.call}
    pieces = Pieces(most)

    def found() -> Iterator[tuple[str, Coded]]:
        for name, row in rows.items():
            reply = context.ledger.get(row.call)
            coded = pieces.row(reply.top_logprobs, row.completion) if reply is not None else None
            if coded is not None:
                yield name, coded

    told = sum(1 for _ in found())
    if not told:
        raise LogitError(
            f"none of the {len(rows)} rows of {teacher} holds log-probabilities: it writes its answers otherwise than the "
            "student is to write them, or wrote inputs alone",
            "learn from its text (--method sft)",
        )
    pieces.write(context.out)
    with LogitWriter(
        context.out / FILE,
        tokenizer=f"the pieces of {teacher}",
        fingerprint=file_digest(context.out / PIECES),
        vocabulary=len(pieces),
        k=most,
        teacher=teacher,
    ) as writer:
        for name, coded in found():
            writer.add(name, coded)
    context.say(f"capture: with {told} of the {len(rows)} rows of teachers the likeliest tokens were told")
    return ""


def _read(context: Context) -> str:
    from workbench.students.load import prepare_base, weights_bytes
    from workbench.students.taught import name_of, tokenizer_digest

    config = context.config
    teacher = white_box(config.teacher)
    assert teacher is not None, "the config refuses one behind an API"
    folder, student = (
        teacher.folder(),
        prepare_base(models.path_or_name(config.student.model), context.cache / "students"),
    )
    if weights_bytes(student) > weights_bytes(folder):
        raise StudentError(
            f"the student {config.student.model} is larger than its teacher {config.teacher.model}",
            "exchange the two, or learn from its text (--method sft)",
        )
    mode = str(read_json(context.inputs["shots"] / "shots.json")["mode"])
    labeler = Labeler(context.task, context.examples("seed"), mode, config.shots)
    rows = {name_of(row.prompt, row.completion): row for row in _rows(context)}
    asked = [(name, labeler.messages(_example(row)), row.completion) for name, row in rows.items()]
    began = told = monotonic()
    with LogitWriter(
        context.out / FILE,
        tokenizer=str(folder),
        fingerprint=tokenizer_digest(folder),
        vocabulary=teacher.vocabulary,
        k=config.distil.k,
        teacher=teacher.model,
    ) as writer:
        for done, (name, row) in enumerate(teacher.score(asked, config.distil.k), start=1):
            writer.add(name, row)
            if monotonic() - told > TOLD_S:
                told = monotonic()
                context.say(
                    f"capture: {done} of {len(rows)} rows, {(told - began) / done * (len(rows) - done) / 60:.1f} min left"
                )
    return str(folder)


def _rows(context: Context) -> Iterable[Row]:
    if "attempt" in context.inputs:
        return own_rows(context)
    return read_jsonl(context.inputs["select"] / "rows.jsonl", Row)


def _example(row: Row) -> Example:
    return Example(id=row.id, input=row.input, split="new", source=row.source)
