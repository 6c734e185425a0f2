"""How many stored candidates a second are judged again after a change of the validators, all cores, start-up included.

    python benchmarks/rejudge.py [--candidates 100000] [--repeat 5]

The candidates are recombined from the seeds of phone_actions and judged by its own validators; no teacher is asked.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic

from workbench import registry
from workbench.rejudge import rejudge
from workbench.sources.recombine import recombine
from workbench.sources.values import pools_of
from workbench.stages.context import jsonl
from workbench.types import Candidate, Judgement, Verdict


def write_candidates(path: Path, count: int) -> None:
    """Right answers, to new inputs; every tenth misses its last character, as of a reply that was cut."""
    task = registry.load("phone_actions")
    seeds = task.examples("seed")
    made = recombine(task, seeds, pools_of(task.output, [seed.target for seed in seeds]), min(count, 5000), 0)
    with jsonl(path) as write:
        for number in range(count):
            example = made[number % len(made)]
            text = task.output.dump(example.target)
            candidate = Candidate(
                example=example, text=text if number % 10 else text[:-1], call=f"{number:064x}", source="corpus"
            )
            write(Judgement(candidate=candidate, verdict=Verdict(outcome="pass", checks=()), teacher="t", licence="l"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidates.jsonl"
        write_candidates(path, args.candidates)
        rates = []
        for _ in range(args.repeat):
            start = monotonic()
            found = rejudge(registry.load("phone_actions"), path)
            rates.append(args.candidates / (monotonic() - start))
            assert found.counts.total() == args.candidates
            print(f"{rates[-1]:,.0f} candidates a second; {dict(found.counts)}", flush=True)
    print(f"median: {median(rates):,.0f} a second")


if __name__ == "__main__":
    main()
