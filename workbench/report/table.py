"""The score table in a terminal."""

from typing import TYPE_CHECKING

from workbench.report import facts
from workbench.report.model import Entrant, Report, Score

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def _score(score: Score | None) -> tuple[str, str]:
    return (f"{score.value:.1f}", f"{score.low:.1f}–{score.high:.1f}") if score else (facts.NONE, "")


def _columns(report: Report, entrant: Entrant) -> dict[str, tuple[str, str]]:
    """Header -> (figure, what is dimmed below it). Lines are broken here, so that only the model's name ever wraps."""
    r = facts.ratios(report, entrant) if entrant.shipped else facts.Ratios()
    found = {
        "model": (entrant.label, "shipped" if entrant.shipped else ""),
        **{f"{facts.metric_text(m)} %": _score(entrant.scores.get(m)) for m in report.metrics},
        "size": (facts.size_text(entrant.file_bytes), r.size.replace(" ", "\n")),
        "prompt tokens": (facts.tokens_text(entrant.prompt_tokens), r.prompt.replace(" ", "\n")),
        "seconds": (facts.seconds_text(entrant.seconds), r.speed.replace(" ", "\n")),
    }
    if len({e.rows for e in report.entrants}) > 1:
        found["rows"] = (f"{entrant.rows:,}", "")
    return found


def _cell(above: str, below: str, style: str) -> "Text":
    """`Text` and not `str`, for a label may hold rich's markup."""
    from rich.text import Text

    return Text.assemble((above, style), *([("\n" + below, "dim")] if below else []))


def print_table(report: Report, console: "Console") -> None:
    """Print the entrants, one a row, then the verdict in one sentence and what was not done."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows = [_columns(report, entrant) for entrant in report.entrants]
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for header in rows[0] if rows else []:
        if header == "model":
            grid.add_column(header, overflow="fold")
        else:
            grid.add_column(Text(header.replace(" ", "\n", 1)), justify="right", vertical="top", no_wrap=True)
    for entrant, row in zip(report.entrants, rows, strict=True):
        grid.add_row(*(_cell(*cell, "bold green" if entrant.shipped else "") for cell in row.values()))
    console.print(Text(report.title, style="bold"))
    if rows:
        console.print(grid)
    console.print(Text(facts.verdict(report)))
    for entrant in report.entrants:
        if entrant.note:
            console.print(Text(f"{entrant.label}: {entrant.note}", style="dim"))
    for caveat in report.caveats:
        console.print(Text(f"Not done: {caveat}", style="yellow"))
