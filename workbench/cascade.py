"""A family of experts: the student, then smaller ones, each pruned from the one before it and trained on the same rows, with
that one reading along.

What a child loses is chosen by what the task's rows use least: whole blocks, feed-forward neurons, and once, from the first to
the second, the tokens that neither rows nor corpus need. It starts on weights that no rounding moved, reads rare words in the
pieces that unknown ones will come in, and ends on the grid of its file (`distil.last_mile`). Each is exported, scored on dev
and test, and timed as its file.

    compare/TASK-cascade.md, compare/TASK-cascade.svg      in the project's folder
    compare/TASK-cascade/SIZE/                             each expert
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from workbench import commands, models
from workbench.comparison import FOLDER, Shipped, at_most, right_on_test, walked
from workbench.config import Config
from workbench.declaration import Task
from workbench.digest import digest
from workbench.edge.gguf_file import open_gguf, value
from workbench.errors import ConfigError, StudentError
from workbench.methods.qat import Qat
from workbench.plan import label
from workbench.scoring import Score, mcnemar, ratio
from workbench.stages.context import read_jsonl
from workbench.stages.train import taught
from workbench.students.settings import DistilConfig
from workbench.types import Frozen, Row

LOOKED_AT = 300  # rows that say what is used least
TURNS = 3  # of timing
RESPLIT = 0.5  # of the rows, for students that lost tokens: rare words in the pieces that unknown ones come in


class Member(Frozen):
    """One of the family. `against` is the p value of McNemar's test on test against the first."""

    name: str
    folder: str
    size_bytes: int
    dev: float
    exact: Score
    only_first: int
    only_this: int
    against: float
    seconds: float


def sizes_of(text: str) -> list[tuple[int, int]]:
    """`30x1536,30x1024`: blocks and neurons of each child. Raises ConfigError."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)x(\d+)\s*", part)
        if match is None:
            raise ConfigError(
                f"--sizes {part.strip()!r}: blocks and neurons are wanted", "as in --sizes 30x1536,30x1024"
            )
        found.append((int(match[1]), int(match[2])))
        if 0 in found[-1]:
            raise ConfigError(
                f"--sizes {part.strip()!r}: a model has one block and one neuron at least", "as in --sizes 30x1536"
            )
    return found


def cascade(
    task: Task,
    config: Config,
    sizes: Sequence[tuple[int, int]],
    project: Path,
    *,
    dry: bool = False,
    accept: Sequence[str] = (),
) -> list[Member]:
    """Walks what is not there yet, the full student first, and writes the table and the figure; `dry`: looks the first over,
    and gives none. `accept`: names of terms that the user accepts. Children learn without dropout, on a base in bf16, and with
    rare words in pieces. Raises ConfigError for sizes that make no smaller model."""
    _smaller_each(config, sizes, fetch=not dry)
    trainings = 1 + len(sizes)
    print(f"{trainings} trainings (the student and {len(sizes)} pruned from it): {at_most(config)}", flush=True)
    if dry:
        commands.run(task, config, until=label("export", config.rounds.count), dry=True, accept=accept)
        return []
    home = project / FOLDER / f"{task.name}-cascade"
    walks: list[tuple[Config, Shipped]] = []
    share = RESPLIT if config.train.resplit is None else config.train.resplit
    for_children = {"quantize_base": "bf16", "dropout": 0.0, "resplit": share}
    for size in (None, *sizes):
        if size is not None:
            child = _child(task, *walks[-1], size, project, trim=len(walks) == 1)
            config = child.model_copy(update={"train": config.train.model_copy(update=for_children)})
        print(f"--- {_name(size)}", flush=True)
        walks.append((config, walked(task, config, home / _folder(size), accept)))
    files = [shipped.file for _, shipped in walks]
    rights = [right_on_test(task, config, file) for file in files]
    family: list[Member] = []
    each = zip((None, *sizes), walks, rights, _seconds(task, config, files), strict=True)
    for size, (_, shipped), right, seconds in each:
        paired = mcnemar(right, rights[0])
        family.append(
            Member(
                name=_name(size),
                folder=_folder(size),
                size_bytes=shipped.file.stat().st_size,
                dev=shipped.dev,
                exact=ratio([(float(one), 1.0) for one in right]),
                only_first=paired.only_b,
                only_this=paired.only_a,
                against=paired.p,
                seconds=seconds,
            )
        )
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    _picture(folder / f"{task.name}-cascade.svg", family)
    (folder / f"{task.name}-cascade.md").write_text("\n".join(told(task, family)) + "\n", encoding="utf-8")
    return family


def _smaller_each(config: Config, sizes: Sequence[tuple[int, int]], *, fetch: bool) -> None:
    """Raises ConfigError where one is larger than the one before it: told before the first is trained."""
    before = _shape(config.student.model, fetch=fetch)
    for place, size in enumerate(sizes):
        same = size == before and place > 0  # the first loses tokens, and may lose nothing else
        if before is not None and (size[0] > before[0] or size[1] > before[1] or same):
            raise ConfigError(
                f"--sizes: {_name(size)} are no less than {_name(before)}", "name smaller ones, the largest first"
            )
        before = size


def _shape(student: str, *, fetch: bool) -> tuple[int, int] | None:
    """Blocks and neurons, read without a model of it; None where it is not here yet and not to be fetched."""
    here = models.locate(student) if student in models.CATALOGUE else models.known(student)
    path = models.path_or_name(student) if here is None and fetch else here
    if path is None:
        return None
    try:
        if path.is_file():
            reader = open_gguf(path)
            kind = value(reader, "general.architecture")
            return int(value(reader, f"{kind}.block_count")), int(value(reader, f"{kind}.feed_forward_length"))
        shape = json.loads((path / "config.json").read_text("utf-8"))
        return int(shape["num_hidden_layers"]), int(shape["intermediate_size"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise StudentError(
            f"{path} does not say how many blocks and neurons it has: {error!r}", "take another student"
        ) from None


def _name(size: tuple[int, int] | None) -> str:
    return "the student" if size is None else f"{size[0]} blocks, {size[1]:,} neurons"


def _folder(size: tuple[int, int] | None) -> str:
    return "student" if size is None else f"{size[0]}x{size[1]}"


def _child(task: Task, config: Config, parent: Shipped, size: tuple[int, int], project: Path, *, trim: bool) -> Config:
    """The config with a pruned student, made of the parent's merged weights, once, and taught by them."""
    from workbench.students.batches import encode
    from workbench.students.load import load_tokenizer
    from workbench.students.prune import VERSION, importance, pruned
    from workbench.students.rendering import rendering_for
    from workbench.students.vocabulary import COMMON, trimmed

    weights, shard = (parent.lock.artifacts[name] for name in ("merge", "select"))
    blocks, neurons = size
    key = parent.lock.entry("merge").key  # type: ignore[union-attr]
    made_of = digest([key, blocks, neurons, trim, COMMON, LOOKED_AT, VERSION])
    folder = project / ".workbench" / "family" / f"{task.name}-{blocks}x{neurons}-{made_of[:8]}"
    if not folder.is_dir():
        source, rendering = weights / "weights", rendering_for(weights / "weights")
        rows = taught(list(read_jsonl(shard / "rows.jsonl", Row)))
        folder.parent.mkdir(parents=True, exist_ok=True)
        if trim:
            prompts = [row.prompt for row in rows]
            if "corpus" in task.sources:
                prompts += [task.student_prompt(example.input) for example in task.corpus()]
            texts = [*map(rendering.prompt, prompts), *(rendering.completion(row.completion) for row in rows)]
            source = trimmed(source, folder.with_name(f"{folder.name}-trimmed"), texts, common=COMMON)
        some = encode(load_tokenizer(source), rendering, rows[:LOOKED_AT])
        found = importance(source, some, tokens=config.train.tokens_per_step)
        pruned(source, folder, blocks=blocks, neurons=neurons, found=found)
    return config.model_copy(
        update={
            "student": config.student.model_copy(update={"model": str(folder)}),
            "distil": _taught(config.distil, weights / "weights"),
        }
    )


def _taught(config: DistilConfig, parent: Path) -> DistilConfig:
    """By what the parent thinks of each token of the rows' answers, the last steps on the grid of the file."""
    mile = Qat.last_mile if config.last_mile is None else config.last_mile
    return config.model_copy(update={"method": "parent", "parent": str(parent), "last_mile": mile})


def _seconds(task: Task, config: Config, files: Sequence[Path]) -> list[float]:
    """Of one request alone, the median; the files in turn, TURNS times, for a machine has faster and slower minutes."""
    from workbench.stages.exam import STUDENT_CONTEXT, seconds_alone, user

    chats = [user(task.student_prompt(row.input)) for row in task.examples("dev")[: 2 * config.evaluate.timed]]
    warm = [user("hello") for _ in chats]
    most = config.student.max_tokens
    taken: list[list[float]] = [[] for _ in files]
    for _ in range(TURNS):
        for file, mine in zip(files, taken, strict=True):
            mine.extend(seconds_alone(file, chats, warm, config.runtime, max_tokens=most, context=STUDENT_CONTEXT))
    return [median(mine) for mine in taken]


def told(task: Task, family: Sequence[Member]) -> list[str]:
    """The table in Markdown."""
    first = family[0]
    lines = [
        f"# {task.name}: a family of experts",
        "",
        "Each is pruned from the one above it and trained on the same rows; the file that would ship, in llama.cpp. Exact "
        "match in percent, on test with 95 % bootstrap intervals; seconds of one request alone. The experts are in "
        f"{FOLDER}/{task.name}-cascade/.",
        "",
        "| expert | folder | size | dev | test | alone right | the first alone | p | seconds | times as fast |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in family:
        test = f"{one.exact.value:.1f} ({one.exact.low:.1f} to {one.exact.high:.1f})"
        paired = "– | – | –" if one is first else f"{one.only_this} | {one.only_first} | {one.against:.3f}"
        lines.append(
            f"| {one.name} | {one.folder} | {one.size_bytes / 1e6:.0f} MB | {one.dev:.1f} | {test} | {paired} | "
            f"{one.seconds:.2f} | {first.seconds / one.seconds:.1f} |"
        )
    return [*lines, "", f"![{task.name}]({task.name}-cascade.svg)"]


def _picture(path: Path, family: Sequence[Member]) -> None:
    """Size against score, the interval as a line, the speed as the point's label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes: Any = figure.add_subplot()
    sizes = [one.size_bytes / 1e6 for one in family]
    axes.plot(sizes, [one.exact.value for one in family], "-o", color="#1f4e9c", markersize=6)
    for size, one in zip(sizes, family, strict=True):
        axes.plot([size, size], [one.exact.low, one.exact.high], color="#9db4d6", linewidth=2, zorder=0)
        axes.annotate(
            f"{one.seconds:.2f} s", (size, one.exact.value), textcoords="offset points", xytext=(6, -12), fontsize=9
        )
    axes.margins(x=0.12)  # room for the last one's label
    axes.set_xlabel("size of the file, MB")
    axes.set_ylabel("exact match on test, %")
    axes.grid(color="#e3e7ee")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
