"""What rounds, steering and a tuned prompt each gain on dev, at the same number of teacher calls and minutes of training.

    python benchmarks/data_engine.py TASK [--calls 600] [--minutes 10] [--program FILE] [--set section.key=value ...]
    HOME_ASSISTANT_DATA=../shared/data/home_assistant python benchmarks/data_engine.py benchmarks/home_assistant_task.py

TASK is a name or a file. Run in a folder of its own: its ledger is shared by all, so that what one has asked the others find,
and count as theirs. `--program` is what `workbench tune-teacher TASK` wrote; without one that row is left out. Each is walked
to its export; test rows are not read. Paired: dev rows that it alone gets right, and the plain one alone (McNemar).
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from workbench import commands, registry
from workbench.comparison import Shipped, walked
from workbench.errors import WorkbenchError
from workbench.plan import label
from workbench.scoring import mcnemar
from workbench.stages.context import read_json

STEERING = ("sample.steer=8", "select.steer=4")
ROUNDS = ("rounds.count=2",)


class Outcome(NamedTuple):
    """`exact` of the file that would ship and of the unquantized one on dev, in percent; `right`: which dev rows it gets."""

    exact: float
    unquantized: float
    candidates: int
    calls: int
    right: dict[str, bool]


def outcome(shipped: Shipped, dev: list[str]) -> Outcome:
    lock = shipped.lock
    last = lock.exactly(label("sample", 2)) or lock.exactly("sample")  # what was paid for, whichever round ships
    assert last is not None, "it was walked to its export"
    funnel = read_json(Path(last.path) / "funnel.json")
    right = {row: row not in shipped.wrong for row in dev}
    return Outcome(shipped.dev, shipped.unquantized, funnel["candidates"], funnel["calls"], right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--calls", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--program", default="")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    args = parser.parse_args()
    tuned = (f"shots.program={args.program}", "shots.mode=program")
    variants: dict[str, tuple[str, ...]] = {"plain": (), "steering": STEERING, "rounds": ROUNDS}
    if args.program:
        variants["tuned prompt"] = tuned
    variants["steering, rounds"] = (*STEERING, *ROUNDS)
    if args.program:
        variants["all three"] = (*STEERING, *ROUNDS, *tuned)
    same = (f"sample.max_calls={args.calls}", "sample.max_minutes=600", f"train.max_minutes={args.minutes}", *args.sets)
    try:
        task = registry.load(args.task)
        dev = [example.id for example in task.examples("dev")]
        found: dict[str, Outcome] = {}
        for name, sets in variants.items():
            print(f"--- {name}", flush=True)
            shipped = walked(task, commands.settings(task, "full", [*same, *sets]))
            found[name] = outcome(shipped, dev)
    except WorkbenchError as error:
        sys.exit(f"error: {error}\nnext:  {error.hint}")
    print("\n| variant | exact on dev | unquantized | gain | alone right | plain alone | p | candidates | calls |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    plain = found["plain"]
    for name, one in found.items():
        paired = mcnemar([one.right[row] for row in dev], [plain.right[row] for row in dev])
        print(f"| {name} | {one.exact:.1f} | {one.unquantized:.1f} | {one.exact - plain.exact:+.1f} | {paired.only_a} | "
              f"{paired.only_b} | {paired.p:.2f} | {one.candidates:,} | {one.calls:,} |")  # fmt: skip


if __name__ == "__main__":
    main()
