"""What the teachers cost, in tables: the ledger, joined with the runs that asked.

A call that another run reused counts where it was paid for. What a run found instead of sending is told of its sampling, the
one stage that writes down how many calls it rested on.
"""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.config import Config, load_config
from workbench.errors import ConfigError
from workbench.ledger_views import Call, Failure, View, read
from workbench.runs import list_runs, read_lock, span, stage_at
from workbench.stages.context import read_json
from workbench.teachers.build import known_as

if TYPE_CHECKING:
    from rich.table import Table

Price = tuple[float, float]  # per million tokens read and written
MESSAGE_CHARS = 160
NONE = "–"
WORDS = {
    "teacher",
    "purpose",
    "task",
    "stage",
    "day",
    "run",
    "sampling",
    "kind",
    "latest",
    "message",
}  # others are figures


class Line(NamedTuple):
    """One line of a table. `seconds` are summed over calls that may have run side by side; `money` counts the teachers that
    have a price, and is None where none has."""

    name: str
    calls: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    seconds: float
    money: float | None


class Rested(NamedTuple):
    """What one run's sampling rested on. `sampling` is `ran`, `skipped` or `not ended`; `rested` is None where no artifact
    tells it; `besides` were sent by the run's other stages. More may be `sent` than what it rests on: a budget that ends it
    leaves replies unused that were under way."""

    run: str
    task: str
    sampling: str
    rested: int | None
    sent: int
    besides: int

    @property
    def found(self) -> int | None:
        return None if self.rested is None else max(0, self.rested - self.sent)


def lines(view: View, prices: Mapping[str, Price], name: Callable[[Call | Failure], str]) -> list[Line]:
    """The ledger by what `name` makes of a call or a failure."""
    groups: dict[str, tuple[list[Call], list[Failure]]] = defaultdict(lambda: ([], []))
    for call in view.calls:
        groups[name(call)][0].append(call)
    for failure in view.failures:
        groups[name(failure)][1].append(failure)
    return [_line(key, *groups[key], prices) for key in sorted(groups)]


def _line(name: str, calls: Sequence[Call], failures: Sequence[Failure], prices: Mapping[str, Price]) -> Line:
    costs = [
        (call.prompt_tokens * prices[call.teacher][0] + call.completion_tokens * prices[call.teacher][1]) / 1e6
        for call in calls
        if call.teacher in prices
    ]
    return Line(
        name=name,
        calls=len(calls),
        failures=len(failures),
        prompt_tokens=sum(call.prompt_tokens for call in calls),
        completion_tokens=sum(call.completion_tokens for call in calls),
        cached_tokens=sum(call.cached_tokens for call in calls),
        seconds=sum(call.seconds for call in calls),
        money=sum(costs) if costs else None,
    )


def rests(view: View, runs: Mapping[str, Path]) -> list[Rested]:
    """Of every run that asked a teacher or got as far as its sampling, the oldest first."""
    written: dict[str, list[str]] = defaultdict(list)
    for call in view.calls:
        written[call.run].append(call.created)
    told = []
    for run, folder in runs.items():
        entry = read_lock(folder).entry("sample")
        if entry is None and run not in written:
            continue
        begin, end = span(folder, "sample")
        sent = sum(begin <= created < end for created in written[run])
        funnel = Path(entry.path) / "funnel.json" if entry else None
        rested = int(read_json(funnel).get("calls", 0)) if funnel is not None and funnel.is_file() else None
        sampling = "not ended" if entry is None else "ran" if entry.ran else "skipped"
        told.append(Rested(run, folder.parent.name, sampling, rested, sent, len(written[run]) - sent))
    return told


def prices_of(teachers: Collection[str], runs: Mapping[str, Path], given: Price | None) -> dict[str, Price]:
    """By teacher: what is given, else what the latest run that names a price for it names."""
    if given is not None:
        return dict.fromkeys(teachers, given)
    found: dict[str, Price] = {}
    for folder in reversed(list(runs.values())):
        config = _config(folder)
        for each in config.teachers if config is not None else ():
            name, price = known_as(each), each.price
            for teacher in teachers:
                if any(price) and (teacher == name or teacher.startswith(f"{name} ")):
                    found.setdefault(teacher, price)
    return found


def _config(run: Path) -> Config | None:
    try:
        return load_config(file=run / "config.toml")
    except ConfigError:  # it is gone, or another version of the workbench wrote it
        return None


def print_accounts(project: Path, given: Price | None) -> None:
    """All the tables; one line where no teacher was asked yet. Raises StoreError where the ledger cannot be read."""
    from rich.console import Console
    from rich.text import Text

    path = project / ".workbench" / "ledger.sqlite"
    view = read(path)
    if not view.calls and not view.failures:
        print(f"no teacher was asked here yet: {path} {'is empty' if path.exists() else 'is not there'}")
        return
    runs, console = list_runs(project), Console()
    prices = prices_of({row.teacher for row in view.calls} | {row.teacher for row in view.failures}, runs, given)

    stages = {name: stage_at(folder) for name, folder in runs.items()}

    def task(row: Call | Failure) -> str:
        return runs[row.run].parent.name if row.run in runs else _asked_by(row.run)

    def stage(row: Call | Failure) -> str:
        return stages[row.run](row.created) if row.run in runs else _asked_by(row.run)

    names: dict[str, Callable[[Call | Failure], str]] = {
        "teacher": lambda row: row.teacher,
        "purpose": lambda row: row.purpose or "(not told)",
        "task": task,
        "stage": stage,
        "day": lambda row: row.created[:10],
    }
    for header, name in names.items():
        console.print(_spent(header, lines(view, prices, name)))
    told = rests(view, runs)
    if told:
        console.print(Text("The calls that each run's sampling rested on:", style="bold"))
        console.print(_rested(told))
    if view.failures:
        console.print(_failures(view.failures))
    console.print(Text("Days are UTC. Seconds are summed over calls that may have run side by side.", style="dim"))
    for teacher, (read_, written) in sorted(prices.items()):
        console.print(Text(f"Money: {read_:g} and {written:g} a million tokens of {teacher}", style="dim"))


def _asked_by(run: str) -> str:
    """Who asked, where it is no run that is there: a verb beside the runs leaves its own name."""
    if not run:
        return "(no run)"
    return "(its run is gone)" if "Z-" in run else f"(workbench {run})"


def _spent(header: str, found: Sequence[Line]) -> "Table":
    headers = [header, "calls", "failures", "tokens in", "tokens out", "cached tokens", "seconds"]
    priced = any(line.money is not None for line in found)
    rows = [
        [line.name, f"{line.calls:,}", f"{line.failures:,}", f"{line.prompt_tokens:,}", f"{line.completion_tokens:,}",
         f"{line.cached_tokens:,}", f"{line.seconds:,.1f}",
         *([NONE if line.money is None else f"{line.money:,.4f}"] if priced else [])]
        for line in found
    ]  # fmt: skip
    return _grid([*headers, *(["money"] if priced else [])], rows)


def _rested(told: Sequence[Rested]) -> "Table":
    headers = ["run", "task", "sampling", "rested on", "found", "sent", "sent besides"]
    rows = [
        [line.run, line.task, line.sampling, *(NONE if n is None else f"{n:,}" for n in (line.rested, line.found)),
         f"{line.sent:,}", f"{line.besides:,}"]
        for line in told
    ]  # fmt: skip
    return _grid(headers, rows)


def _failures(failures: Sequence[Failure]) -> "Table":
    """By kind, with what the latest one said."""
    kinds: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        kinds[failure.kind].append(failure)
    rows = [[kind, f"{len(kinds[kind]):,}", kinds[kind][-1].created[:19], _one_line(kinds[kind][-1].message)]
            for kind in sorted(kinds, key=lambda kind: -len(kinds[kind]))]  # fmt: skip
    return _grid(["kind", "failures", "latest", "message"], rows)


def _one_line(message: str) -> str:
    """Short, and without what would steer a terminal: servers say many things."""
    plain = "".join(char if char.isprintable() else " " for char in message)
    return textwrap.shorten(plain, MESSAGE_CHARS, placeholder=" …")


def _grid(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for header in headers:
        if header in WORDS:
            grid.add_column(header, overflow="fold")
        else:
            grid.add_column(Text(header.replace(" ", "\n", 1)), justify="right", vertical="top", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid
