"""What the verbs do. The command line (cli.py) parses and calls; a notebook can call these as well."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from workbench import checked, models, pipeline, plan, preflight, prices, provenance, registry, terms
from workbench.config import Config, TeacherConfig, load_config
from workbench.declaration import Task
from workbench.errors import ConfigError, DataError, EdgeError, StoreError, TaskError
from workbench.licences import Policy
from workbench.outputs import ParseError
from workbench.report.build import build_report, write_report
from workbench.runs import RunFolder, candidates_of, find_run, read_lock, runs_of
from workbench.store import RunLock


def load(name: str) -> Task:
    """A task by name or path. Raises TaskError; a path that lacks its `.py` is told."""
    try:
        return registry.load(name)
    except TaskError as error:
        if not name.endswith(".py") and Path(f"{name}.py").is_file():
            raise TaskError(str(error), f"did you mean {name}.py? A task file is named by its path") from None
        raise


def settings(
    task: Task,
    profile: str = "",
    sets: Sequence[str] = (),
    *,
    file: Path | None = None,
    teacher: str = "",
    student: str = "",
    engine: str = "",
    method: str = "",
    default: str = "quick",
) -> Config:
    """`default`: the profile where neither `profile` nor the file names one."""
    sections = {name: {"model": model} for name, model in (("teacher", teacher), ("student", student)) if model}
    named = {"runtime.engine": engine, "distil.method": method}
    sets = (*sets, *(f"{name}={value}" for name, value in named.items() if value))
    config = load_config(profile, file, sets, task.profiles, default=default, **sections)
    priced = []
    for each in config.teachers:
        known, told = prices.priced(each, Path.cwd())
        if told:
            print(f"prices{f' of {each.model}' if config.pool.teachers else ''}: {told}")
        priced.append(known)
    pool = config.pool.model_copy(update={"teachers": tuple(priced[1:])})
    return config.model_copy(update={"teacher": priced[0], "pool": pool})


def run(
    task: Task, config: Config, *, until: str = "", force: str = "", dry: bool = False, accept: Sequence[str] = ()
) -> Path | None:
    """All the stages, then the report and its table. `accept`: names of terms that the user accepts with this command. Gives
    the run's folder; a dry run has none."""
    names = [stage.label for stage in plan.stages(config)]
    for option, value in (("--until", until), ("--force", force)):
        if value and value not in names:
            raise ConfigError(f"{option} {value}: there is no such stage", f"stages: {', '.join(names)}")
    preflight.settings(task, config)
    checked.gate(task, typed(task.name, str(task.file)))
    project = Path.cwd()
    if dry:
        _dry(task, config, project, until, force, _terms(config, project, until, accept, dry=True))
        return None
    with RunLock(project / ".workbench"):
        return _run(task, config, project, until, force, _terms(config, project, until, accept))


def _dry(task: Task, config: Config, project: Path, until: str, force: str, policies: tuple[Policy, ...]) -> None:
    """What a run would do, and whatever can be told without a model of why it would not."""
    preflight.data(task, config)
    preflight.names(config, until)
    root = project / ".workbench"
    planned = pipeline.walk(task, config, root, until=until, force=force, dry=True, say=print, done=_nothing)
    preflight.keys(task, config, {done.stage.name for done in planned if done.ran})
    for line in _warnings(config, policies):
        print(line)
    for done in planned:
        print(f"{done.stage.label:9} {'would run' if done.ran else f'is there ({done.key[:8]})'}")


def _warnings(config: Config, policies: tuple[Policy, ...]) -> list[str]:
    """Of the teachers that are asked, which are those that `policies` tell of."""
    told = [f"terms: {policy.sentence}" for policy in policies if not policy.clear]
    return told + (prices.unknown(config) if policies else [])


def _run(task: Task, config: Config, project: Path, until: str, force: str, policies: tuple[Policy, ...]) -> Path:
    _quiet()
    folder = RunFolder(project, task.name, task.file, task.version, config, _command(), policies)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{(time.monotonic() - started) / 60:5.1f} min] {text}", flush=True)
        folder.say(text)

    for line in _warnings(config, policies):
        say(line)
    preflight.names(config, until)
    for model in preflight.needed(config, until):
        say(f"model {model}: {fetch(model) if model in models.CATALOGUE else models.path_or_name(model)}")
    planned = pipeline.walk(
        task, config, project / ".workbench", until=until, force=force, dry=True, say=say, done=_nothing
    )
    to_run = {item.stage.name for item in planned if item.ran}
    preflight.keys(task, config, to_run)
    if {"train", "capture", "assistant"} & to_run:
        from workbench.stages.train import try_student

        say(f"student {config.student.model}: tried")
        try_student(config, models.cache_dir(), ships="export" in to_run, read="capture" in to_run)

    def done(item: plan.Done) -> None:
        folder.done(item)
        if not item.ran:
            say(f"{item.stage.label}: skipped, nothing changed ({item.key[:8]})")

    finished = pipeline.walk(
        task, config, project / ".workbench", until=until, force=force, say=say, done=done,
        run=folder.path.name, terms=policies,
    )  # fmt: skip
    if finished[-1].stage != plan.STAGES[-1]:
        say(f"stopped after {finished[-1].stage.label}, as asked")
        return folder.path
    folder.close()
    made = build_report(task, config, folder.lock, folder.path)
    write_report(made, folder.path)
    _print(made)
    say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    print(f"expert: {folder.path / 'expert'}\nreport: {folder.path / 'report.html'}")
    return folder.path


def _terms(
    config: Config, project: Path, until: str, accept: Sequence[str], *, dry: bool = False
) -> tuple[Policy, ...]:
    """What the table says of each teacher; nothing where no stage up to `until` has to do with them. Raises TermsError."""
    if "teacher" not in preflight.sections_until(until) and not accept:
        return ()
    names = (config.distil.assistant, config.distil.parent)
    learned = (TeacherConfig(model=models.origin(name)) for name in names if name)
    asked = (*config.teachers, *learned)
    return tuple(terms.settle(each, project, accept, _command(), dry=dry) for each in asked)


def _command() -> str:
    """What was typed, to be typed again."""
    program = Path(sys.argv[0])
    script = program.suffix == ".py" and program.name != "__main__.py"  # a benchmark calls `run` too
    return shlex.join([*(["python", sys.argv[0]] if script else ["workbench"]), *sys.argv[1:]])


def _nothing(done: plan.Done) -> None:
    """A dry run writes nothing down."""


def _quiet() -> None:
    """Libraries that talk to the terminal while a stage tells its progress."""
    import logging
    import os
    import warnings

    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # peft's business with transformers
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a kernel for inference that nothing here uses
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' bar for a GGUF listens to nothing else


def _print(made: object) -> None:
    from rich.console import Console

    from workbench.report import Report, print_table

    assert isinstance(made, Report)
    print_table(made, Console())


def report(name: str) -> None:
    """Write the report of a finished run anew."""
    folder = find_run(Path.cwd(), name)
    newest = runs_of(Path.cwd(), folder.parent.name)[-1]
    if newest.name > folder.name and not read_lock(newest).ended and not Path(name).is_dir():
        print(f"the newest run, {newest.name}, did not finish; this is the report of {folder.name}", file=sys.stderr)
    lock = read_lock(folder)
    if lock.entry("evaluate") is None:
        raise StoreError(f"{folder.name} did not get as far as its evaluation", "run the task to its end first")
    config = load_config(file=folder / "config.toml")
    try:
        made = build_report(registry.load(typed(lock.task, lock.file)), config, lock, folder)
        write_report(made, folder)
    except FileNotFoundError as error:
        raise StoreError(
            f"{error.filename} is not there any more", "run the task again: what is there is kept"
        ) from None
    _print(made)
    print(f"report: {folder / 'report.html'}")


def typed(name: str, file: str) -> str:
    """A task as it can be typed here: by name where that means this file, else by path."""
    known = {found.name: found.file for found in registry.available()}
    path = Path(file)
    near = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
    if str(known.get(name)) == file:
        return name
    return near if len(list(registry.in_file(path))) == 1 else f"{near}{registry.IN_FILE}{name}"


def list_tasks() -> None:
    for found in registry.available():
        print(f"{found.name:18} {found.title}\n{'':18} {found.file}")


def check(name: str) -> int:
    """Exit code 0 when all is well."""
    from rich.console import Console

    from workbench.trial import print_trial, try_task

    names = [name] if name else [found.name for found in registry.available()]
    code = 0
    for each in names:
        task = load(each)
        for profile in task.profiles:
            load_config(profile, profiles=task.profiles)
        trial = try_task(task)
        print_trial(trial, Console())
        code = code if trial.ok else 1
    return code


def predict(name: str, text: str, run_name: str) -> None:
    """One answer of the shipped file; where it is no answer by the task's own parser, that is told on standard error."""
    from workbench.stages.exam import STUDENT_CONTEXT, ask_all, user

    task = load(name)
    folder = find_run(Path.cwd(), run_name or task.name)
    config = load_config(file=folder / "config.toml")
    try:
        example = task.example(_input(task, text), split="new")
    except ValidationError as error:
        raise DataError(
            f"this is no input of {task.name}: {error.errors()[0]['msg']}", "look at its input model"
        ) from None
    (answer,) = ask_all(
        _shipped(folder),
        [user(task.student_prompt(example.input))],
        config.runtime.model_copy(update={"slots": 1}),
        max_tokens=config.student.max_tokens,
        context=STUDENT_CONTEXT,
    )
    print(answer.text)
    try:
        task.output.parse(answer.text)
    except ParseError as error:
        print(f"this is no answer of {task.name}: {error}", file=sys.stderr)


def _shipped(folder: Path) -> Path:
    """The file that a run shipped. Raises StoreError where it did not get that far."""
    path = folder / "expert" / "model.gguf"
    if not path.is_file():
        raise StoreError(f"{folder.name} did not get as far as its expert", "run the task to its end first")
    return path


def _input(task: Task, text: str) -> dict[str, object]:
    fields = list(task.prompt.input.model_fields)
    if len(fields) == 1:
        return {fields[0]: text}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise TaskError(f"the input is not JSON: {error}", f"give a JSON object with {', '.join(fields)}") from None
    if not isinstance(value, dict):
        raise TaskError("the input is not a JSON object", f"give one with {', '.join(fields)}")
    return value


def evaluate(name: str, run_name: str, split: str) -> None:
    """Scores of the shipped file on one split."""
    from workbench.stages.exam import STUDENT_CONTEXT, ask_all, user
    from workbench.stages.shots import score_replies

    if split not in ("dev", "test"):
        raise ConfigError(f"there is no split {split!r} to score", "dev or test")
    task = load(name)
    folder = find_run(Path.cwd(), run_name or task.name)
    config = load_config(file=folder / "config.toml")
    rows = task.examples("dev" if split == "dev" else "test")
    answers = ask_all(
        _shipped(folder),
        [user(task.student_prompt(row.input)) for row in rows],
        config.runtime,
        max_tokens=config.student.max_tokens,
        context=STUDENT_CONTEXT,
    )
    print(f"{_shipped(folder)} on {len(rows)} {split} rows")
    for metric, score in score_replies(task.output, rows, [answer.text for answer in answers]).items():
        print(f"  {metric:15} {score.value:5.1f}  [{score.low:.1f}, {score.high:.1f}]")


def rejudge(name: str, run_name: str, jobs: int) -> None:
    """What the validators of now say of a run's candidates."""
    from workbench import rejudge as again

    task = load(name)
    own = runs_of(Path.cwd(), task.name)
    # the newest, though it may have ended early
    run = own[-1] if own and not run_name else find_run(Path.cwd(), run_name or task.name)
    for line in again.told(again.rejudge(task, candidates_of(run), jobs)):
        print(line)


def coverage(name: str, run_name: str) -> None:
    """The answers of seeds, dev and a run's shard, counted by cells of the output space; the newest shard without a name."""
    from workbench.coverage import told

    task = load(name)
    runs = [find_run(Path.cwd(), run_name)] if run_name else runs_of(Path.cwd(), task.name)
    entries = [entry for run in runs if (entry := read_lock(run).entry("select")) is not None]
    rows = Path(entries[-1].path) / "rows.jsonl" if entries else None
    if rows is None or not rows.is_file():
        print("no run of it has a shard: seeds and dev alone")
        rows = None
    for line in told(task, rows):
        print(line)


def audit(expert: Path, *, as_json: bool) -> None:
    """The bill of materials in an expert's file."""
    from workbench.edge.gguf_file import open_gguf, value

    file = expert / "model.gguf" if expert.is_dir() else expert
    text = value(open_gguf(file), provenance.KEY)
    if text is None:
        raise EdgeError(f"{file} carries no bill of materials", "it was made elsewhere, or before `audit` was there")
    bill = provenance.Bill.model_validate_json(text)
    print(bill.model_dump_json(indent=1) if as_json else "\n".join(provenance.told(bill)))


def list_models() -> None:
    for model in models.CATALOGUE.values():
        here = models.locate(model.name)
        print(f"{model.name:30} {model.size_bytes / 1e6:7.0f} MB  {model.licence:12} {here or 'not fetched'}")
        print(f"{'':30} {model.role}")


def fetch(name: str) -> Path:
    """Fetch with a line of progress on a terminal."""
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if sys.stderr.isatty() and now - last > 0.5:
            last = now
            print(f"\r{name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB", end="", file=sys.stderr, flush=True)

    path = models.fetch(name, progress=progress)
    if last:
        print(file=sys.stderr)
    return path
