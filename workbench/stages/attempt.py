"""What the student of the round before makes of inputs, before a teacher is asked about them: its own words, judged.

The file that would ship answers, at `distil.warmth`. Which inputs: those of a corpus that no round asked about yet, in the
order in which they would be asked, or where the task has none those that a teacher wrote in vain; or those of the shard, for a
teacher to look at what was written there.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import islice

from workbench import methods, models
from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import ConfigError
from workbench.judge import judge_cheap
from workbench.provenance import joined
from workbench.scoring import shuffled
from workbench.stages.context import Context, read_json, read_jsonl, write_json, write_jsonl
from workbench.stages.exam import STUDENT_CONTEXT, ask_all, user
from workbench.stages.gate import Leaks
from workbench.stages.ticker import Ticker
from workbench.stages.wishes import asked_order, unlabelled
from workbench.types import Candidate, Check, Example, Judgement, Row, Verdict

FILE = "attempts.jsonl"
SOURCE = "student"
UNENDED = Verdict(
    outcome="fail", checks=(Check(validator="finished", outcome="fail", reason="the answer came to no end"),)
)


def run(context: Context) -> None:
    """Writes attempts.jsonl, judged by the cheap validators, and leaks.json (held-out rows that inputs of the corpus were too
    like). An input that is too long for the student is left out. Raises EdgeError."""
    config, leaks = context.config, Leaks()
    before = list(read_jsonl(context.inputs["select before"] / "rows.jsonl", Row))
    if methods.named(config.distil.method).attempts == "unanswered":
        candidates = list(read_jsonl(context.inputs["sample before"] / "candidates.jsonl", Judgement))
        asked = {item.candidate.example.id for item in candidates}
        inputs = list(islice(unanswered(context, candidates, asked, SOURCE, leaks), config.distil.attempts))
    else:
        inputs = _of_shard(before, context.round, config.distil.attempts)
    fitting = fitting_in(context, inputs)
    made = read_json(context.inputs["export before"] / "export.json")
    answers = ask_all(
        context.inputs["export before"] / f"{made['chosen']}.gguf",
        [user(context.task.student_prompt(example.input)) for example in fitting],
        config.runtime,
        max_tokens=config.student.max_tokens,
        context=STUDENT_CONTEXT,
        temperature=config.distil.warmth,
        tick=Ticker(context.say, "attempt", "inputs", len(fitting)),
    )
    # what it knows it has of its teachers: their terms hold for its own words too
    teachers, licences = joined(row.teacher for row in before), joined(row.licence for row in before)
    found = [
        Judgement(
            candidate=Candidate(example=example, text=answer.text, call="", source=SOURCE),
            verdict=judge_cheap(context.task, example, answer.text) if answer.ended else UNENDED,
            teacher=teachers,
            licence=licences,
        )
        for example, answer in zip(fitting, answers, strict=True)
    ]
    write_jsonl(context.out / FILE, found)
    write_json(context.out / "leaks.json", leaks)
    passed = sum(item.verdict.outcome == "pass" for item in found)
    context.say(
        f"attempt: the student answered {len(found)} of {len(inputs)} inputs, {passed} pass the cheap validators"
    )


def try_method(task: Task, config: Config) -> None:
    """Told before a teacher is paid. Raises ConfigError where the student is to answer inputs that nobody answered, and
    the task comes by none, and where nobody would be learned from."""
    name = config.distil.method
    method, inputs = methods.named(name), {"corpus", "forward"} & set(task.sources)
    first = "student" if method.attempts == "unanswered" else "assistant" if method.labels else ""
    if first and not {"corpus", "inverse"} & set(task.sources):
        raise ConfigError(
            f"--method {name}: the {first} answers inputs that nobody answered yet, and {task.name} comes by none",
            'give the task a corpus, a file of inputs that nobody labelled, or the source "inverse"',
        )
    if (method.attempts or method.captures or method.labels) and task.output.student_schema() != task.output.schema():
        raise ConfigError(
            f"--method {name}: what the student of {task.name} writes lacks its rationale, and nobody could judge or read it",
            "learn from the rows (--method sft, or qat)",
        )
    idle = [reader for reader in config.readers if not (method.labels and reader == config.distil.assistant)]
    if idle and not method.captures:
        raise ConfigError(
            f"--method {name}: of what {', '.join(idle)} think nothing is learned",
            "take --method kd, or leave distil.assistant and `reads` out",
        )
    if method.captures and config.teacher.base_url and not (config.readers or inputs):
        raise ConfigError(
            f"{task.name}: {config.teacher.model} writes inputs alone, and tells only what it thinks of its answers",
            "learn from its text (--method sft), or give the task the source `corpus`",
        )


def own_rows(context: Context) -> list[Row]:
    """What the student wrote to an end, as rows that a teacher may look at; whatever the validators say."""
    task = context.task
    return [
        Row(
            id=item.candidate.example.id,
            input=item.candidate.example.input,
            prompt=task.student_prompt(item.candidate.example.input),
            completion=item.candidate.text,
            source=SOURCE,
        )
        for item in read_jsonl(context.inputs["attempt"] / FILE, Judgement)
        if item.verdict != UNENDED
    ]


def fitting_in(context: Context, inputs: list[Example]) -> list[Example]:
    """Those that leave the student room for an answer."""
    from workbench.students.load import load_tokenizer, prepare_base
    from workbench.students.rendering import rendering_for

    student = context.config.student
    base = prepare_base(models.path_or_name(student.model), context.cache / "students")
    tokenizer, rendering = load_tokenizer(base), rendering_for(base)
    prompts = [rendering.prompt(context.task.student_prompt(example.input)) for example in inputs]
    room = STUDENT_CONTEXT - student.max_tokens
    return [
        example for example, prompt in zip(inputs, prompts, strict=True) if len(tokenizer(prompt)["input_ids"]) < room
    ]


def unanswered(
    context: Context, candidates: Sequence[Judgement], closed: Set[str], source: str, leaks: Leaks
) -> Iterator[Example]:
    """Inputs of the corpus without those that are `closed`, by their ids, in the order in which a teacher would be asked; where
    the task has none, what was written in vain."""
    found: Sequence[Example]
    if "corpus" in context.task.sources:
        found, asked = context.task.corpus(), closed
    else:
        found, asked = in_vain(candidates), set[str]()
    seeds = context.examples("seed")
    order = asked_order(context, found, seeds)
    for wish in unlabelled(context, found, order, seeds, asked, leaks):
        assert wish.example is not None, "it is an input"
        yield wish.example.model_copy(update={"source": source})


def in_vain(before: Iterable[Judgement]) -> list[Example]:
    """Inputs that a teacher wrote for an answer, to its end, and whose candidate did not pass: what they ask for is open.
    Without those that a teacher was asked about since."""
    kept: dict[str, Example] = {}
    closed = set()
    for item in before:
        example = item.candidate.example
        if item.verdict.outcome == "pass" or item.candidate.source != "inverse":
            closed.add(example.id)
        elif example.id and item.verdict.checks[0].validator != "finished":
            kept[example.id] = example.model_copy(update={"target": None})
    return [example for name, example in kept.items() if name not in closed]


def _of_shard(rows: list[Row], round_: int, count: int) -> list[Example]:
    """Each input once, in an order of the round's own."""
    inputs = {row.prompt: Example(id=row.id, input=row.input, split="new", source=SOURCE) for row in rows}
    return shuffled(list(inputs.values()), round_)[:count]
