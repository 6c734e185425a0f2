"""The shard -> an adapter, through students/qlora. Goes on from its checkpoint after a kill."""

from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from workbench import models
from workbench.declaration import Task
from workbench.errors import EdgeError
from workbench.stages.capture import FILE
from workbench.stages.context import Context, read_json, read_jsonl
from workbench.students.settings import Pair, Progress
from workbench.types import Example, Row

if TYPE_CHECKING:
    from workbench.students.taught import Taught

TELL_EVERY_S = 15.0


def try_student(model: str, cache: Path, *, ships: bool) -> None:
    """Raises StudentError or EdgeError where it could not be trained or, if it `ships`, not be exported: told before a teacher
    is paid. A GGUF is unpacked for this."""
    from workbench.edge.template import end_of_turn, go_template
    from workbench.students.load import load_tokenizer, prepare_base
    from workbench.students.rendering import rendering_for

    base = prepare_base(models.path_or_name(model), cache / "students")
    load_tokenizer(base)
    rendering = rendering_for(base)
    if not ships:
        return
    if not end_of_turn(rendering).lstrip().startswith(rendering.end_of_turn):
        raise EdgeError(
            f"the chat template of {model} writes something between an answer and {rendering.end_of_turn!r}",
            "end each message with that token alone",
        )
    go_template(rendering)


def run(context: Context) -> None:
    """Writes adapter/, history.jsonl and summary.json. A later round goes on from the adapter of the one before."""
    from workbench.students.load import prepare_base
    from workbench.students.qlora import train

    base = prepare_base(models.path_or_name(context.config.student.model), context.cache / "students")
    rows = [
        Pair(prompt=row.prompt, completion=row.completion)
        for row in read_jsonl(context.inputs["select"] / "rows.jsonl", Row)
    ]
    config, count = context.config.train, context.config.rounds.count
    if config.max_minutes is not None:
        config = config.model_copy(update={"max_minutes": config.max_minutes / count})
    before = context.inputs.get("train before")
    taught = _taught(context, base)
    train(
        base,
        rows,
        pairs(context.task, context.examples("dev")),
        config,
        context.out,
        Teller(context),
        start=before / "adapter" if before is not None else None,
        taught=taught,
        grid=context.config.distil.grid if context.config.distil.method == "qat" else None,
    )


def _taught(context: Context, base: Path) -> "Taught | None":
    """What the teacher thinks of the rows, where that was captured."""
    captured = context.inputs.get("capture")
    if captured is None:
        return None
    from workbench.students.divergence import Blend
    from workbench.students.taught import Taught

    config, made = context.config.distil, read_json(captured / "capture.json")
    blend = Blend(config.weight, config.temperature, config.divergence, config.beta)
    return Taught(captured / FILE, Path(made["tokenizer"]), base, blend)


def pairs(task: Task, examples: list[Example]) -> list[Pair]:
    """Human rows as the student would have to answer them, with the characters that count."""
    return [
        Pair(
            prompt=task.student_prompt(example.input),
            completion=task.output.dump(example.target),
            scored=task.output.scored_chars(example.target),
        )
        for example in examples
    ]


class Teller:
    """A line now and then: loss, speed, time left; each look at dev at once."""

    def __init__(self, context: Context) -> None:
        self.say = context.say
        self.last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = monotonic()
        if progress.dev_exact is None and not progress.note and now - self.last < TELL_EVERY_S:
            return
        self.last = now
        parts = [f"train: step {progress.step}/{progress.total}"]
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.3f}")
        if progress.tokens_per_s:
            parts.append(f"{progress.tokens_per_s:.0f} tokens/s")
        if progress.seconds_left is not None:
            parts.append(f"{progress.seconds_left / 60:.1f} min left")
        if progress.dev_exact is not None:
            parts.append(f"dev exact {100 * progress.dev_exact:.1f}")
        if progress.note:
            parts.append(progress.note)
        self.say(", ".join(parts))
