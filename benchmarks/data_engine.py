"""What rounds, steering and a tuned prompt each gain on dev, at the same number of teacher calls and steps of training.

    python benchmarks/data_engine.py TASK [--calls 800] [--steps 150] [--only A,B] [--program FILE] [--set KEY=VALUE ...]
    HOME_ASSISTANT_DATA=../shared/data/home_assistant python benchmarks/data_engine.py benchmarks/home_assistant_task.py

TASK is a name or a file. Run in a folder of its own: its ledger is shared by all, so that what one has asked the others find,
and count as theirs. `--only` names what is set beside the plain one: steering, rounds. `--program` is what `workbench
tune-teacher TASK` wrote; without one that row is left out. Each is walked to its export, and so are those together that gain
each for itself. Paired: dev rows that it alone gets right, and the plain one alone (McNemar). Where one is better than the
plain one on dev, the best of them and the plain one answer the test rows.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from workbench import commands, registry
from workbench.comparison import Shipped, right_on_test, walked
from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import WorkbenchError
from workbench.plan import label
from workbench.scoring import mcnemar
from workbench.stages.context import read_json

STEERING = ("sample.steer=8", "select.steer=4")
ROUNDS = ("rounds.count=2",)


class Outcome(NamedTuple):
    """`exact` of the file that would ship and of the unquantized one on dev, in percent; `right`: which dev rows it gets;
    `rows`: how many of the teacher's are in its shard."""

    file: Path
    exact: float
    unquantized: float
    rows: int
    candidates: int
    calls: int
    right: list[bool]


def outcome(shipped: Shipped, dev: list[str]) -> Outcome:
    lock = shipped.lock
    last = lock.exactly(label("sample", 2)) or lock.exactly("sample")  # what was paid for, whichever round ships
    shard = lock.exactly(label("select", 2)) or lock.exactly("select")
    assert last is not None and shard is not None, "it was walked to its export"
    funnel, rows = (read_json(Path(each.path) / "funnel.json") for each in (last, shard))
    right = [row not in shipped.wrong for row in dev]
    return Outcome(
        shipped.file,
        shipped.dev,
        shipped.unquantized,
        rows["from the teacher"],
        funnel["candidates"],
        funnel["calls"],
        right,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--calls", type=int, default=800)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", default="steering,rounds")
    parser.add_argument("--program", default="")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    args = parser.parse_args()
    known = {"steering": STEERING, "rounds": ROUNDS}
    unknown = {*args.only.split(",")} - {*known}
    if unknown:
        sys.exit(f"error: --only {', '.join(unknown)}: there are {', '.join(known)}")
    variants: dict[str, tuple[str, ...]] = {"plain": (), **{name: known[name] for name in args.only.split(",")}}
    if args.program:
        variants["tuned prompt"] = (f"shots.program={args.program}", "shots.mode=program")
    budget = (f"sample.max_calls={args.calls}", "sample.max_minutes=600", f"train.max_steps={args.steps}")
    same = (*budget, "train.max_minutes=600", *args.sets)
    try:
        task = registry.load(args.task)
        dev = [example.id for example in task.examples("dev")]

        def walk(name: str, sets: tuple[str, ...]) -> Outcome:
            print(f"--- {name}", flush=True)
            return outcome(walked(task, commands.settings(task, "full", [*same, *sets])), dev)

        found = {name: walk(name, sets) for name, sets in variants.items()}
        gained = [name for name in variants if found[name].exact > found["plain"].exact]
        if len(gained) > 1:
            found[", ".join(gained)] = walk(
                ", ".join(gained), tuple(item for name in gained for item in variants[name])
            )
        told(found)
        best = max(found, key=lambda name: found[name].exact)
        if best != "plain":
            on_test(task, commands.settings(task, "full", same), best, found)
    except WorkbenchError as error:
        sys.exit(f"error: {error}\nnext:  {error.hint}")


def told(found: dict[str, Outcome]) -> None:
    print("\n| variant | dev exact | unquantized | gain | alone right | plain alone | p | rows | candidates | calls |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    plain = found["plain"]
    for name, one in found.items():
        paired = mcnemar(one.right, plain.right)
        print(f"| {name} | {one.exact:.1f} | {one.unquantized:.1f} | {one.exact - plain.exact:+.1f} | {paired.only_a} | "
              f"{paired.only_b} | {paired.p:.2f} | {one.rows:,} | {one.candidates:,} | {one.calls:,} |")  # fmt: skip


def on_test(task: Task, config: Config, best: str, found: dict[str, Outcome]) -> None:
    mine, plain = (right_on_test(task, config, found[name].file) for name in (best, "plain"))
    paired = mcnemar(mine, plain)
    print(f"\non test: {best} {100 * fmean(mine):.1f}, plain {100 * fmean(plain):.1f}; alone right {paired.only_a} and "
          f"{paired.only_b}, p = {paired.p:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
