"""The shard -> an adapter, through students/qlora. Goes on from its checkpoint after a kill."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

from workbench import methods, models
from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import EdgeError, StudentError
from workbench.stages.attempt import own_rows
from workbench.stages.capture import captured
from workbench.stages.context import Context, read_jsonl
from workbench.stages.job import Job, learn
from workbench.stages.launch import launched
from workbench.students.settings import ADAPTER, UNROUNDED, Pair, Progress, TrainConfig
from workbench.types import Example, Row

TELL_EVERY_S = 15.0
ASIDE = "Steps only. "  # before the prompt where the rationale is asked for
OFTEN = 5  # that a new row comes, at most, to have its share


def try_student(config: Config, cache: Path, *, ships: bool, read: bool = True) -> None:
    """Raises StudentError or EdgeError where it could not be trained by its method or, if it `ships`, not be exported, or where
    who is to `read` its rows, or to label others, is smaller: told before a teacher is paid. A GGUF is unpacked for this."""
    from workbench.edge.template import end_of_turn, go_template
    from workbench.students.load import load_tokenizer, parameters, prepare_base
    from workbench.students.rendering import rendering_for
    from workbench.students.subwords import spec_of

    model = config.student.model
    base = prepare_base(models.path_or_name(model), cache / "students")
    tokenizer = load_tokenizer(base)
    if config.train.resplit:
        spec_of(tokenizer)
    method = methods.named(config.distil.method)
    method.tried(config.distil, base)
    told = method.captures == "rows" and config.teacher.top_logprobs  # with its answers: it need not read
    reads = method.captures and not (config.teacher.base_url or config.distil.assistant or told)
    readers = (config.teacher.model, *config.readers) if reads else config.readers
    for reader in readers if read else ():
        folder = prepare_base(models.path_or_name(reader.removeprefix("hf:")), cache / "students")
        load_tokenizer(folder)
        if parameters(base) > parameters(folder):
            raise StudentError(
                f"the student {model} is larger than {reader}, which {'labels' if method.labels else 'reads'} for it",
                "exchange the two, or learn from its text (--method sft)",
            )
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
    """Writes adapter/, history.jsonl and summary.json. A later round goes on from the adapter of the one before, that of before
    its last mile where it had one: a round begins unrounded."""
    from workbench.students.load import prepare_base

    config, before = context.config, context.inputs.get("train before")
    job = Job(
        base=prepare_base(models.path_or_name(config.student.model), context.cache / "students"),
        rows=tuple(_rows(context)),
        dev=tuple(pairs(context.task, context.examples("dev"))),
        config=shared_out(config.train, config.rounds.count),
        distil=config.distil,
        work=context.out,
        start=_unrounded(before) if before is not None else None,
        captured=tuple(captured(context.inputs["capture"])) if "capture" in context.inputs else (),
    )
    if config.runtime.launch:
        launched(job, config.runtime.launch, Teller(context))
    else:
        learn(job, Teller(context))


def _unrounded(trained: Path) -> Path:
    before_the_mile = trained / UNROUNDED
    return before_the_mile if before_the_mile.is_dir() else trained / ADAPTER


def shared_out(config: TrainConfig, rounds: int) -> TrainConfig:
    """What one of so many rounds takes of the minutes and steps."""
    minutes, steps = config.max_minutes, config.max_steps
    return config.model_copy(
        update={
            "max_minutes": minutes and minutes / rounds,
            "max_steps": steps and max(1, steps // rounds),
            "min_steps": config.min_steps // rounds,
        }
    )


def _rows(context: Context) -> list[Pair]:
    """The shard; in a later round of a method that lets the student answer first, at least the share `fresh` is of this one:
    what is new in the shard, or what the student wrote itself."""
    shard, fresh = list(_read(context, "select")), context.config.distil.fresh
    if "attempt" in context.inputs:
        own = [Pair(prompt=row.prompt, completion=row.completion, own=True) for row in own_rows(context)]
        return mixed(taught(shard), own, fresh)
    if "select before" in context.inputs:
        known = {row.id for row in _read(context, "select before")}
        new = [row.id not in known and row.source != "recombine" for row in shard]
        old, fresh_ones = (
            taught([row for row, is_new in zip(shard, new, strict=True) if is_new is was]) for was in (False, True)
        )
        return mixed(old, fresh_ones, fresh)
    return taught(shard)


def taught(rows: Sequence[Row]) -> list[Pair]:
    """Each row's text; and what is to be learned beside it, behind a prompt of its own."""
    texts = [Pair(prompt=row.prompt, completion=row.completion) for row in rows]
    return texts + [Pair(prompt=ASIDE + row.prompt, completion=row.aside) for row in rows if row.aside]


def _read(context: Context, stage: str) -> Iterator[Row]:
    return read_jsonl(context.inputs[stage] / "rows.jsonl", Row)


def mixed(old: Sequence[Pair], new: Sequence[Pair], fresh: float) -> list[Pair]:
    """All of them, the new ones as often as gives them their share, at most OFTEN times."""
    times = round(fresh / (1 - fresh) * len(old) / len(new)) if new else 0
    return [*old, *(pair for _ in range(min(max(1, times), OFTEN)) for pair in new)]


def pairs(task: Task, examples: list[Example]) -> list[Pair]:
    """Human rows as the student would have to answer them, with the characters that count."""
    return [
        Pair(
            prompt=task.student_prompt(example.input),
            completion=task.output.student_text(example.target),
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
