"""The verbs of what is kept: `ledger` and `models`."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import WorkbenchError

models_app = typer.Typer(no_args_is_help=True, help="The models at hand: list, fetch, path.", rich_markup_mode=None)
ledger_app = typer.Typer(rich_markup_mode=None)


@ledger_app.callback(invoke_without_command=True)
def ledger(
    context: typer.Context,
    price_in: Annotated[float | None, typer.Option(min=0, help="Money a million tokens read.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Money a million tokens written.")] = None,
) -> None:
    """What the teachers were asked, and what it cost: by teacher, purpose, task and day, with failures and reused calls."""
    if context.invoked_subcommand is None:
        from workbench.accounts import print_accounts

        given = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
        print_accounts(Path.cwd(), given)


@ledger_app.command("export")
def ledger_export(
    run_: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder or its name, or a task for its latest.")],
    to: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    form: Annotated[
        str, typer.Option("--format", help="parquet or jsonl; without, parquet where pyarrow is installed.")
    ] = "",
) -> None:
    """Write a run's candidates with their verdicts as a Hugging Face dataset folder."""
    from workbench.dataset import export
    from workbench.runs import find_run

    print(export(find_run(Path.cwd(), run_), to, form))


@models_app.command("list")
def models_list() -> None:
    """The catalogue: size, licence, and whether the file is here."""
    from workbench import commands

    commands.list_models()


@models_app.command("fetch")
def models_fetch(names: Annotated[list[str], typer.Argument(help="Names of the catalogue.")]) -> None:
    """Fetch and verify models."""
    from workbench import commands

    for name in names:
        print(commands.fetch(name))


@models_app.command("path")
def models_path(name: Annotated[str, typer.Argument(help="A name of the catalogue.")]) -> None:
    """Where a fetched model lies."""
    from workbench import models

    path = models.locate(name)
    if path is None:
        raise WorkbenchError(f"{name} is not here yet", f"workbench models fetch {name}")
    print(path)
