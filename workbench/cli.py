"""The verbs: parse, call, print. Everything heavy is imported by the verb that needs it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli_options import (
    AcceptOpt,
    ConfigOpt,
    DryOpt,
    MethodOpt,
    ProfileOpt,
    SetOpt,
    StudentOpt,
    TaskArg,
    TeacherOpt,
)
from workbench.cli_stores import ledger_app, models_app
from workbench.errors import WorkbenchError

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip
app.add_typer(models_app, name="models")
app.add_typer(ledger_app, name="ledger")

INTERRUPTED = 130  # the exit code of a Ctrl-C


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"workbench {version('distillation-workbench')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """One narrow task in, one small expert model for a device out."""


@app.command()
def run(
    task: TaskArg,
    profile: ProfileOpt = "",
    teacher: TeacherOpt = "",
    student: StudentOpt = "",
    set_: SetOpt = None,
    config: ConfigOpt = None,
    engine: Annotated[str, typer.Option(help="local, or ray: sample and judge on a Ray cluster.")] = "",
    method: MethodOpt = "",
    until: Annotated[str, typer.Option(help="Stop after this stage.")] = "",
    force: Annotated[str, typer.Option(help="Run this stage though nothing changed.")] = "",
    dry_run: DryOpt = False,
    accept_terms: AcceptOpt = None,
) -> None:
    """Turn a task into an expert, from its data to the shipped file and its report. Goes on where it was stopped. Without a
    profile, in the quick one."""
    from workbench import commands

    found = commands.load(task)
    settings = commands.settings(
        found, profile, set_ or [], file=config, teacher=teacher, student=student, engine=engine, method=method
    )
    commands.run(found, settings, until=until, force=force, dry=dry_run, accept=accept_terms or [])


@app.command()
def new(name: Annotated[str, typer.Argument(help="A Python name for the task.")]) -> None:
    """Write a task file with a few rows that passes `workbench check` as it stands."""
    from workbench.scaffold import write_task

    path = write_task(Path.cwd(), name)
    print(f"{path} is written. Next: workbench check {path.name}")


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="Labelled rows, a JSON object a line: input, target, and group if any.")],
    to: Annotated[Path, typer.Option(help="The folder for seeds.jsonl, dev.jsonl and test.jsonl.")],
    dev: Annotated[float, typer.Option(help="The share of dev, to choose by.")] = 0.2,
    test: Annotated[float, typer.Option(help="The share of test, to score by, once.")] = 0.4,
) -> None:
    """Split labelled rows into seeds, dev and test; rows of one group stay together."""
    from workbench import splitting

    found, again = splitting.split(file, to, dev, test)
    told = ", ".join(f"{count:,} {name}" for name, count in found.items())
    print(f"{to}: {told} rows" + (f"; left out, for their input had come before: {again:,}" if again else ""))


@app.command("list")
def list_() -> None:
    """The tasks that can be named."""
    from workbench import commands

    commands.list_tasks()


@app.command()
def check(task: Annotated[str, typer.Argument(help="A task's name or file; all tasks without.")] = "") -> None:
    """Try data, validators and probes of a task without a model; tell how many mutated answers each validator lets by."""
    from workbench import commands

    raise typer.Exit(commands.check(task))


@app.command()
def rejudge(
    task: TaskArg,
    run_: Annotated[str, typer.Option("--run", help="Which run's candidates; the task's latest without.")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
) -> None:
    """Put a run's stored candidates before the validators as they are now; tell what changes. Asks no teacher."""
    from workbench import commands

    commands.rejudge(task, run_, jobs)


@app.command()
def coverage(
    task: TaskArg,
    run_: Annotated[str, typer.Option("--run", help="Whose shard; the task's latest run without.")] = "",
) -> None:
    """Count seeds, a run's shard and dev by what their answers say: functions, choices, classes of values."""
    from workbench import commands

    commands.coverage(task, run_)


@app.command()
def predict(
    task: TaskArg,
    text: Annotated[str, typer.Argument(help="The input: text, or JSON where the input has several fields.")],
    run_: Annotated[str, typer.Option("--run", help="Which run's expert; the task's latest without.")] = "",
) -> None:
    """Ask the expert of the task's latest run."""
    from workbench import commands

    commands.predict(task, text, run_)


@app.command("eval")
def eval_(
    task: TaskArg,
    run_: Annotated[str, typer.Option("--run", help="Which run's expert; the task's latest without.")] = "",
    split: Annotated[str, typer.Option(help="dev or test.")] = "dev",
) -> None:
    """Score the shipped file of the task's latest run anew, through llama.cpp, on dev (or test)."""
    from workbench import commands

    commands.evaluate(task, run_, split)


@app.command()
def report(
    run_: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or a task for its latest.")],
) -> None:
    """Write a run's report anew and print its table."""
    from workbench import commands

    commands.report(run_)


@app.command()
def why(
    run_: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or a task for its newest.")],
    stage: Annotated[str, typer.Argument(help="A stage, such as train.")],
) -> None:
    """Say in one sentence why a stage ran or was skipped."""
    from workbench.runs import newest_run
    from workbench.runs import why as sentence

    print(sentence(Path.cwd(), newest_run(Path.cwd(), run_), stage))


@app.command()
def settings(section: Annotated[str, typer.Argument(help="Such as train; all without.")] = "") -> None:
    """All settings in tables: name, type, default in quick and full, meaning."""
    from workbench.settings_table import tables

    print(tables(section))


@app.command()
def estimate(
    task: TaskArg,
    profile: ProfileOpt = "",
    teacher: TeacherOpt = "",
    student: StudentOpt = "",
    method: MethodOpt = "",
    ask: Annotated[int, typer.Option(min=0, help="Real requests to measure on; a run asks none of them again.")] = 0,
    set_: SetOpt = None,
    config: ConfigOpt = None,
) -> None:
    """Say what a run would ask of the teacher at most: calls, tokens, money, minutes. Without a profile, in the quick one."""
    from workbench import commands, teacher_commands

    found = commands.load(task)
    settings = commands.settings(
        found, profile, set_ or [], file=config, teacher=teacher, student=student, method=method
    )
    teacher_commands.estimate(found, settings, ask)


@app.command()
def teachers(
    task: TaskArg,
    teacher: Annotated[
        list[str], typer.Option(help="A name as for run, or NAME@URL for a server. Give it several times.")
    ],
    rows: Annotated[int, typer.Option(min=1, help="How many dev rows.")] = 40,
    set_: SetOpt = None,
    config: ConfigOpt = None,
) -> None:
    """Measure teachers on dev rows (score, what passes, time, cost) and recommend one. Settings are for all of them."""
    from workbench import commands, teacher_commands

    teacher_commands.teachers(commands.load(task), teacher, rows, set_ or [], config)


@app.command()
def compare(
    task: TaskArg,
    methods: Annotated[
        str, typer.Option(help="With commas between: sft, kd, gkd, dagger, qat, parent.")
    ] = "sft,kd,qat",
    seeds: Annotated[int, typer.Option(min=1, help="How often each is trained.")] = 3,
    profile: ProfileOpt = "",
    teacher: TeacherOpt = "",
    student: StudentOpt = "",
    set_: SetOpt = None,
    config: ConfigOpt = None,
    dry_run: DryOpt = False,
    accept_terms: AcceptOpt = None,
) -> None:
    """Ways of learning on the same rows: which of them pays on this task, with several seeds each. Without a profile, in the
    full one."""
    from workbench import commands, comparison

    found = commands.load(task)
    settings = commands.settings(
        found, profile, set_ or [], file=config, teacher=teacher, student=student, default="full"
    )
    names = [name for name in (part.strip() for part in methods.split(",")) if name]
    standings = comparison.compare(found, settings, names, seeds, Path.cwd(), dry=dry_run, accept=accept_terms or [])
    if standings:  # of a dry run none
        print("\n".join(comparison.told(found, standings)))


@app.command()
def cascade(
    task: TaskArg,
    sizes: Annotated[str, typer.Option(help="Blocks x feed-forward neurons of each child, as in 30x1536,30x1024.")],
    profile: ProfileOpt = "",
    teacher: TeacherOpt = "",
    student: StudentOpt = "",
    set_: SetOpt = None,
    config: ConfigOpt = None,
    dry_run: DryOpt = False,
    accept_terms: AcceptOpt = None,
) -> None:
    """A family of experts, each pruned from the one before and trained on the same rows: size, score and speed. Without a
    profile, in the full one."""
    from workbench import cascade, commands

    found = commands.load(task)
    settings = commands.settings(
        found, profile, set_ or [], file=config, teacher=teacher, student=student, default="full"
    )
    accept = accept_terms or []
    family = cascade.cascade(found, settings, cascade.sizes_of(sizes), Path.cwd(), dry=dry_run, accept=accept)
    if family:  # of a dry run none
        print("\n".join(cascade.told(found, family)))


@app.command("tune-teacher")
def tune_teacher(
    task: TaskArg,
    optimizer: Annotated[str, typer.Option(help="bootstrap, mipro (needs optuna) or gepa.")] = "bootstrap",
    calls: Annotated[int, typer.Option(min=1, help="The most it may ask; scoring on dev comes on top.")] = 400,
    rows: Annotated[int, typer.Option(min=1, help="How many dev rows say what it gained.")] = 40,
    profile: ProfileOpt = "",
    teacher: TeacherOpt = "",
    set_: SetOpt = None,
    config: ConfigOpt = None,
) -> None:
    """Let a dspy optimizer write the teacher's prompt, with the task's validators as its metric. Without a profile, in the full
    one."""
    from workbench import commands, teacher_commands

    found = commands.load(task)
    settings = commands.settings(found, profile, set_ or [], file=config, teacher=teacher, default="full")
    teacher_commands.tune_teacher(found, settings, optimizer, calls, rows)


@app.command()
def audit(
    expert: Annotated[Path, typer.Argument(help="An expert's folder, or its GGUF file.")],
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What an expert was made of, read from its file alone: rows by source, teachers, licences."""
    from workbench import commands

    commands.audit(expert, as_json=json_)


@app.command()
def licences(
    teacher: Annotated[str, typer.Option(help="As for run: which terms apply to this one, and why.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, as teacher.base_url=...")] = None,
) -> None:
    """Whether the outputs of a teacher may train a model: the table of terms, with source and date."""
    from workbench import teacher_commands

    teacher_commands.licences(teacher, set_ or [])


def main() -> None:
    """Errors that a user can mend are told in two lines; Ctrl-C says how to go on."""
    try:
        app()
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"next:  {error.hint}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has caught the Ctrl-C
            _stopped()
        raise
    except KeyboardInterrupt:
        _stopped()
        sys.exit(INTERRUPTED)
    except OSError as error:
        from workbench.store import disk_is_full

        full = disk_is_full(error)
        if not full and error.filename is None:  # no file's fault: ours
            raise
        mend = "free some space" if full else "look at the file, its permissions and the disk"
        print(f"error: {'the disk is full: ' if full else ''}{error}", file=sys.stderr)
        print(f"next:  {mend}, then run the same command: it goes on where it was", file=sys.stderr)
        sys.exit(1)


def _stopped() -> None:
    print("\nstopped; the same command goes on where it was", file=sys.stderr)
