"""What the teacher thinks of each token of the shard's rows -> a file of the likeliest next tokens, to learn from.

The teacher reads each row once, its few-shot block before it, as if it had written the answer itself; many rows at once, the
block read once (`students.generate`). A row that came several times into the shard is read once. Where the method says so, it
reads what the student wrote instead.
"""

from collections.abc import Iterable
from time import monotonic

from workbench import models
from workbench.errors import StudentError
from workbench.logits import LogitFile, LogitWriter
from workbench.stages.attempt import own_rows
from workbench.stages.context import Context, read_json, read_jsonl, write_json
from workbench.teachers.build import white_box
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Row

FILE = "logits.bin"
TOLD_S = 30.0


def run(context: Context) -> None:
    """Writes logits.bin and capture.json. Raises StudentError where the student is the larger one."""
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
    with LogitFile(context.out / FILE) as file:
        made = {"rows": len(file), "tokens": file.tokens, "bytes_a_token": round(file.bytes_a_token, 1), "k": file.k}
    write_json(context.out / "capture.json", {**made, "tokenizer": str(folder)})
    context.say(f"capture: {made['rows']} rows, {made['tokens']} tokens, {made['bytes_a_token']} bytes a token")


def _rows(context: Context) -> Iterable[Row]:
    if "attempt" in context.inputs:
        return own_rows(context)
    return read_jsonl(context.inputs["select"] / "rows.jsonl", Row)


def _example(row: Row) -> Example:
    return Example(id=row.id, input=row.input, split="new", source=row.source)
