"""Ways of learning side by side: the same budget of teacher calls, the same steps of training, several seeds each.

Each method with each seed is walked to its export, and the file that would ship answers the test rows through llama.cpp. What
is chosen is chosen on dev: the test rows tell how far it holds.

    compare/TASK.md, compare/TASK.svg, compare/TASK.json      in the project's folder
    compare/TASK/METHOD-SEED/                                 the expert that each would ship
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from workbench import commands, methods
from workbench.config import Config, checked
from workbench.declaration import Task
from workbench.errors import ConfigError
from workbench.plan import label
from workbench.runs import Lock, copy_expert, read_lock
from workbench.scoring import Score, permutation, plainly_better, ratio
from workbench.stages.attempt import try_method
from workbench.stages.context import read_json
from workbench.stages.exam import STUDENT_CONTEXT
from workbench.stages.export import UNQUANTIZED
from workbench.students.settings import DistilConfig
from workbench.types import Frozen

FOLDER = "compare"


class Trained(Frozen):
    """One method with one seed. `dev` and `right` are what the file that ships gets right, row by row, on dev and on test;
    `unquantized` is exact match on dev before it was quantized, in percent. `rounds`, `steps` and `seconds` are those that the
    file rests on; `made` are the steps of all rounds."""

    method: str
    seed: int
    dev: tuple[bool, ...]
    unquantized: float
    file: str
    size_bytes: int
    rounds: int
    steps: int
    made: int
    seconds: float
    right: tuple[bool, ...]


class Shipped(NamedTuple):
    """A run's file that would ship, with its exact match on dev, and before it was quantized, in percent; `wrong` are the dev
    rows that it does not get."""

    lock: Lock
    file: Path
    dev: float
    unquantized: float
    wrong: frozenset[str]


class Standing(Frozen):
    """A method over its seeds. `dev` is of each dev row the share of seeds that got it right; `files` are what ships, by seed;
    `against` is the p value of its paired difference from the first method on test."""

    method: str
    dev: tuple[float, ...]
    files: tuple[str, ...]
    megabytes: int
    unquantized: float
    exact: Score
    each: tuple[float, ...]
    rounds: tuple[int, ...]
    difference: float
    against: float
    steps: int
    seconds: float

    @property
    def dev_exact(self) -> float:
        """In percent."""
        return 100 * fmean(self.dev)


def compare(
    task: Task,
    config: Config,
    names: Sequence[str],
    seeds: int,
    project: Path,
    *,
    dry: bool = False,
    accept: Sequence[str] = (),
) -> list[Standing]:
    """Walks what is not there yet, and writes the table and the figure; `dry`: looks the first of them over, and gives none.
    `accept`: names of terms that the user accepts. Raises ConfigError for a method that there is not, or that does not go with
    the task."""
    names = list(dict.fromkeys(names))
    if not names:
        raise ConfigError("--methods: name at least one method", f"there are {', '.join(methods.names())}")
    configs = [_with(config, name, config.train.seed + seed) for seed in range(seeds) for name in names]
    for one in configs:
        try_method(task, one)
    trainings = "1 training" if len(configs) == 1 else f"{len(configs)} trainings"
    others = "; all others take as many steps as the first" if len(configs) > 1 else ""
    print(
        f"{trainings}, {len(names)} x {seeds} (methods x seeds): {at_most(_as_long(config, None))}{others}", flush=True
    )
    if dry:
        commands.run(task, configs[0], until=label("export", configs[0].rounds.count), dry=True, accept=accept)
        return []
    found: list[Trained] = []
    for one in configs:  # of which each may be walked, as was looked at before
        found.append(_trained(task, _as_long(one, found[0].made if found else None), project, accept))
    standings = [_standing(found, name, names[0]) for name in names]
    folder = project / FOLDER
    folder.mkdir(exist_ok=True)
    rows = [one.model_dump(mode="json") for one in found]
    (folder / f"{task.name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    _picture(folder / f"{task.name}.svg", standings)
    (folder / f"{task.name}.md").write_text("\n".join(told(task, standings)) + "\n", encoding="utf-8")
    return standings


def at_most(config: Config) -> str:
    """How long a training takes, and the sampling before the first, as the settings say."""
    train, minutes = config.train, config.sample.max_minutes
    ends = [f"{train.max_steps:,} steps"] if train.max_steps else []
    ends += [f"{train.max_minutes:g} minutes"] if train.max_minutes else []
    most = " or ".join(ends) or f"{train.epochs:g} epochs"
    return f"at most {most} each, after at most {minutes:g} minutes of sampling, once; export and scoring come on top"


def _with(config: Config, method: str, seed: int) -> Config:
    """Without what it does not look at: who reads, who answers first, and the rounds that only the config's own method needs.
    Raises ConfigError where the teacher cannot serve the method."""
    train, pool, usual = config.train.model_copy(update={"seed": seed}), config.pool, DistilConfig()
    distil: dict[str, Any] = {"method": method}
    needed = config.rounds.count == methods.named(config.distil.method).rounds
    made = methods.named(method)
    if not made.captures:
        pool = pool.asked
    if not (made.captures or made.labels):
        distil |= {name: getattr(usual, name) for name in ("assistant", "assistant_share")}
    if not (made.attempts or made.labels):
        distil |= {name: getattr(usual, name) for name in ("attempts", "warmth", "fresh")}
    rounds = config.rounds.model_copy(update={"count": 1}) if needed else config.rounds
    changed = {"train": train, "distil": config.distil.model_copy(update=distil), "pool": pool, "rounds": rounds}
    return checked(config.model_copy(update=changed))


def _as_long(config: Config, steps: int | None) -> Config:
    """Where a number of steps is given, all have as many, however long they take. Else the minutes say how long the first is
    trained, and all others have its `steps`."""
    steps = config.train.max_steps or steps
    if steps is None:
        return config
    return config.model_copy(
        update={"train": config.train.model_copy(update={"max_steps": steps, "max_minutes": None})}
    )


def _trained(task: Task, config: Config, project: Path, accept: Sequence[str]) -> Trained:
    method, seed = config.distil.method, config.train.seed
    print(f"--- {method}, seed {seed}", flush=True)
    shipped = walked(task, config, _expert(project, task, method, seed), accept)
    trained = [shipped.lock.exactly(label("train", number)) for number in range(1, config.rounds.count + 1)]
    every = [read_json(Path(entry.path) / "summary.json") for entry in trained if entry is not None]
    summaries = every[: shipped.lock.kept]
    return Trained(
        method=method,
        seed=seed,
        dev=tuple(row.id not in shipped.wrong for row in task.examples("dev")),
        unquantized=shipped.unquantized,
        file=shipped.file.stem,
        size_bytes=shipped.file.stat().st_size,
        rounds=shipped.lock.kept,
        steps=sum(summary["steps"] for summary in summaries),
        made=sum(summary["steps"] for summary in every),
        seconds=sum(summary["seconds"] for summary in summaries),
        right=tuple(right_on_test(task, config, shipped.file)),
    )


def _expert(project: Path, task: Task, method: str, seed: int) -> Path:
    return project / FOLDER / task.name / f"{method}-{seed}"


def walked(task: Task, config: Config, expert: Path, accept: Sequence[str]) -> Shipped:
    """A run up to its last export, or what is there of it. What would ship is put into the folder `expert`."""
    folder = commands.run(task, config, until=label("export", config.rounds.count), accept=accept)
    assert folder is not None, "it is no dry run"
    lock = read_lock(folder)
    copy_expert(lock.artifacts["export"], expert)
    made = read_json(lock.artifacts["export"] / "export.json")
    files = {item["name"]: item for item in made["files"]}
    chosen = files[made["chosen"]]
    file = lock.artifacts["export"] / f"{made['chosen']}.gguf"
    return Shipped(lock, file, chosen["dev_exact"], files[UNQUANTIZED]["dev_exact"], frozenset(chosen["wrong"]))


def right_on_test(task: Task, config: Config, file: Path) -> list[bool]:
    """Which of the test rows a GGUF answers rightly, in llama.cpp."""
    from workbench.stages.exam import ask_all, user
    from workbench.stages.shots import parsed

    rows = task.examples("test")[: config.evaluate.rows or None]
    answers = ask_all(
        file,
        [user(task.student_prompt(row.input)) for row in rows],
        config.runtime,
        max_tokens=config.student.max_tokens,
        context=STUDENT_CONTEXT,
    )
    values = [parsed(task.output, answer.text) for answer in answers]
    return [value is not None and task.output.same(value, row.target) for value, row in zip(values, rows, strict=True)]


def _standing(found: Sequence[Trained], method: str, first: str) -> Standing:
    mine = [one for one in found if one.method == method]
    own = _by_row([one.right for one in mine])
    others = _by_row([one.right for one in found if one.method == first])

    def mean(of: Callable[[Trained], float]) -> float:
        return fmean(map(of, mine))

    return Standing(
        method=method,
        dev=tuple(_by_row([one.dev for one in mine])),
        files=tuple(one.file for one in mine),
        megabytes=round(mean(lambda one: one.size_bytes) / 1e6),
        unquantized=mean(lambda one: one.unquantized),
        exact=ratio([(share, 1.0) for share in own]),
        each=tuple(100 * fmean(one.right) for one in mine),
        rounds=tuple(one.rounds for one in mine),
        difference=100 * (fmean(own) - fmean(others)),
        against=permutation(own, others),
        steps=round(mean(lambda one: one.steps)),
        seconds=mean(lambda one: one.seconds),
    )


def _by_row(seeds: Sequence[Sequence[bool]]) -> list[float]:
    """Of each row, the share of seeds that got it right."""
    return [fmean(rights) for rights in zip(*seeds, strict=True)]


def recommended(standings: Sequence[Standing]) -> str:
    """The method to take, and why: of those that the best one on dev is not plainly better than, the one whose file is the
    smallest; of as small ones the one that was named first."""
    first, best = standings[0], max(standings, key=lambda one: one.dev_exact)
    near = [one for one in standings if not plainly_better(best.dev, one.dev)]
    taken = min(near, key=lambda one: one.megabytes)
    why = f"Take {taken.method}: {taken.dev_exact:.1f} on dev in {taken.megabytes} MB."
    if taken is not best:
        why += f" {best.method} has {best.dev_exact:.1f} in {best.megabytes} MB, which is not plainly better."
    if taken is first:
        return why
    shows = "shows a difference" if taken.against < 0.05 else "does not show a difference"
    on_test = f"Against {first.method} on test: {taken.difference:+.1f} points"
    return f"{why} {on_test}; the paired test {shows} (p = {taken.against:.3f})."


def told(task: Task, standings: Sequence[Standing]) -> list[str]:
    """The table in Markdown, and the recommendation."""
    seeds = len(standings[0].each)
    lines = [
        f"# {task.name}: ways of learning",
        "",
        f"The same budget of teacher calls and steps of training, {seeds} seed{'s' if seeds > 1 else ''} each; exact match of "
        "the file that ships, in percent, with 95 % bootstrap intervals over the test rows; rounds are those it rests on. "
        f"Each one's expert is in {FOLDER}/{task.name}/METHOD-SEED/.",
        "",
        "| method | ships | MB | dev | dev, unquantized | test | each seed | rounds | difference | p | steps | minutes |",
        "|---|---|---:|---:|---:|---:|---|---|---:|---:|---:|---:|",
    ]
    for one in standings:
        each = ", ".join(f"{value:.1f}" for value in one.each)
        rounds, files = ", ".join(map(str, one.rounds)), ", ".join(dict.fromkeys(one.files))
        test = f"{one.exact.value:.1f} ({one.exact.low:.1f} to {one.exact.high:.1f})"
        paired = f"{one.difference:+.1f} | {one.against:.3f}" if one is not standings[0] else "– | –"
        lines.append(
            f"| {one.method} | {files} | {one.megabytes} | {one.dev_exact:.1f} | {one.unquantized:.1f} | {test} | {each} | "
            f"{rounds} | {paired} | {one.steps:,} | {one.seconds / 60:.1f} |"
        )
    return [*lines, "", recommended(standings), "", f"![{task.name}]({task.name}.svg)"]


def _picture(path: Path, standings: Sequence[Standing]) -> None:
    """Each method's interval on test, and a point a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.6 * len(standings) + 1.2), layout="constrained")
    axes: Any = figure.add_subplot()
    for place, one in enumerate(standings):
        axes.plot([one.exact.low, one.exact.high], [place, place], color="#7a8699", linewidth=2)
        axes.plot(one.each, [place] * len(one.each), "o", color="#9db4d6", markersize=5)
        axes.plot([one.exact.value], [place], "D", color="#1f4e9c", markersize=7)
    axes.set_yticks(range(len(standings)), [one.method for one in standings])
    axes.set_ylim(len(standings) - 0.5, -0.5)
    axes.set_xlabel("exact match on test, % (diamond: mean; points: seeds; line: 95 % interval)")
    axes.grid(axis="x", color="#e3e7ee")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
