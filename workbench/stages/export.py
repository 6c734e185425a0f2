"""Weights -> GGUF files, each scored on dev through llama.cpp; the one that ships, with what it needs, in expert/."""

from pathlib import Path

from pydantic import BaseModel

from workbench import models, provenance
from workbench.config import ExportConfig
from workbench.digest import file_digest
from workbench.edge.convert import to_gguf
from workbench.edge.expert import write_expert
from workbench.edge.imatrix import importance
from workbench.edge.quantizer import quantize
from workbench.errors import EdgeError
from workbench.scoring import shuffled
from workbench.stages.context import Context, read_jsonl, write_json
from workbench.stages.exam import STUDENT_CONTEXT, ask_all, user
from workbench.stages.merge import as_kept, kept_rounded
from workbench.stages.shots import right, score_replies
from workbench.stages.ticker import Ticker
from workbench.types import Reply, Row

UNQUANTIZED = "BF16"
IMPORTANCE_ROWS = 300  # about 20,000 tokens of the shard


class Made(BaseModel):
    """One file: its name, size, and dev score in percent."""

    name: str
    size_bytes: int
    dev_exact: float
    chosen: bool = False
    note: str = ""
    wrong: tuple[str, ...] = ()  # the dev rows that it gets wrong, by id


def run(context: Context) -> None:
    """Writes <quant>.gguf for each quant, expert/ and export.json."""
    from workbench.students.rendering import rendering_for

    config = context.config.export
    weights = context.inputs["merge"] / "weights"
    rendering = rendering_for(weights)
    source = models.path_or_name(context.config.student.model)
    full = to_gguf(
        weights,
        context.out / f"{UNQUANTIZED}.gguf",
        rendering,
        base_gguf=source if source.suffix == ".gguf" else None,
        facts={provenance.KEY: _bill(context).model_dump_json()},
    )
    # with a matrix the quantizer takes other scales than those trained for
    on_grid = kept_rounded(context.inputs["merge"])
    matrix = _importance(context, weights, full) if config.importance and not on_grid else None
    made = [_scored(context, UNQUANTIZED, full)]
    made += [_better(context, name, full, matrix if name != "Q8_0" else None) for name in config.quants]
    chosen = choose(made, config, _teacher_bytes(context))
    made = [item.model_copy(update={"chosen": item.name == chosen.name}) for item in made]
    write_expert(
        context.out / "expert",
        context.out / f"{chosen.name}.gguf",
        name=context.task.name,
        schema=context.task.output.student_schema(),
        rendering=rendering,
        system=None,
    )
    write_json(context.out / "export.json", {"files": [item.model_dump() for item in made], "chosen": chosen.name})
    context.say(f"export: {chosen.name} ships, {chosen.size_bytes / 1e6:.0f} MB, dev exact {chosen.dev_exact:.1f}")


def choose(made: list[Made], config: ExportConfig, teacher_bytes: int) -> Made:
    """The smallest file within `max_drop` points of the unquantized one and within `max_ratio` of the teacher's size;
    where none is that near, the best within the size; where none is that small, the smallest near enough.
    Raises EdgeError where there is no quantized file."""
    full = next(item for item in made if item.name == UNQUANTIZED)
    files = [item for item in made if item.name != UNQUANTIZED]
    if not files:
        raise EdgeError("no quantization was asked for", "name some in export.quants")
    small = [item for item in files if not teacher_bytes or item.size_bytes <= config.max_ratio * teacher_bytes]
    near = [item for item in small or files if item.dev_exact >= full.dev_exact - config.max_drop]
    if near:
        return min(near, key=lambda item: item.size_bytes)
    return max(small or files, key=lambda item: (item.dev_exact, -item.size_bytes))


def _bill(context: Context) -> provenance.Bill:
    shard = context.inputs["select"] / "rows.jsonl"
    config = context.config.model_copy(update={"distil": as_kept(context.config.distil, context.inputs["merge"])})
    rows, sha = read_jsonl(shard, Row), file_digest(shard)
    return provenance.bill_of(context.task, config, rows, sha, context.round, context.terms)


def _teacher_bytes(context: Context) -> int:
    """The size of a teacher that is a file here; 0 for one behind an API."""
    teacher = context.config.teacher
    if teacher.base_url or teacher.model.startswith("hf:"):
        return 0
    known = models.CATALOGUE.get(teacher.model)
    return known.size_bytes if known else models.path_or_name(teacher.model).stat().st_size


def _importance(context: Context, weights: Path, full: Path) -> Path:
    from workbench.students.rendering import rendering_for

    rendering = rendering_for(weights)
    rows = list(read_jsonl(context.inputs["select"] / "rows.jsonl", Row))
    texts = [
        rendering.prompt(row.prompt) + rendering.completion(row.completion)
        for row in shuffled(rows, 0)[:IMPORTANCE_ROWS]
    ]
    return importance(weights, full, texts, context.out / "importance.gguf")


def _better(context: Context, name: str, full: Path, matrix: Path | None) -> Made:
    """Of two files, by the importance matrix and without, the one that has more of dev right."""
    path = quantize(full, context.out / f"{name}.gguf", name)
    plain = _scored(context, name, path)
    if matrix is None:
        return plain
    other = quantize(full, context.out / f"{name}.weighted.gguf", name, imatrix=matrix)
    weighted = _scored(context, f"{name} by the importance matrix", other)
    if weighted.dev_exact < plain.dev_exact:
        other.unlink()
        return plain.model_copy(update={"note": f"without an importance matrix ({weighted.dev_exact:.1f} with it)"})
    other.replace(path)
    note = f"by an importance matrix of the task's own rows ({plain.dev_exact:.1f} without)"
    return weighted.model_copy(update={"name": name, "note": note})


def _scored(context: Context, name: str, path: Path) -> Made:
    dev = context.examples("dev")
    answers = ask_all(
        path,
        [user(context.task.student_prompt(example.input)) for example in dev],
        context.config.runtime,
        max_tokens=context.config.student.max_tokens,
        context=STUDENT_CONTEXT,
        tick=Ticker(context.say, f"export: {name}", "dev rows", len(dev)),
    )
    output = context.task.output
    exact = score_replies(output, dev, [answer.text for answer in answers])["exact"].value
    wrong = tuple(
        row.id for row, answer in zip(dev, answers, strict=True) if not right(output, row, Reply(text=answer.text))
    )
    context.say(f"export: {name}, {path.stat().st_size / 1e6:.0f} MB, dev exact {exact:.1f}")
    return Made(name=name, size_bytes=path.stat().st_size, dev_exact=exact, wrong=wrong)
