"""A local teacher that reads rows, by engine: how long it takes, how much memory, and how far the two agree.

    python benchmarks/read_rows.py --model qwen2.5-coder-1.5b-instruct --rows 40

The human answers to dev rows of phone_actions, each behind the few-shot block of its group, as `capture` has them read; k = 50.
Loading is timed with it, unpacking the GGUF is not. Memory is the most that the process which reads had (VmHWM).
"""

import argparse
import multiprocessing
import resource
from time import perf_counter

import numpy as np

from workbench import registry
from workbench.config import load_config
from workbench.teachers.build import reader_of
from workbench.teachers.prompts import Labeler

K = 50


def asked(rows: int) -> list:
    task = registry.load("phone_actions")
    labeler = Labeler(task, task.examples("seed"), "group", load_config().shots)
    examples = task.examples("dev")[:rows]
    return [(example.id, labeler.messages(example), task.output.student_text(example.target)) for example in examples]


def read(model: str, engine: str, rows: int, found) -> None:
    config = load_config(sets=(f"teacher.model={model}", f"teacher.engine={engine}")).teacher
    reader = reader_of(config)
    reader.folder()
    lines = asked(rows)
    began = perf_counter()
    told = dict(reader.score(lines, K))
    seconds = perf_counter() - began
    who = resource.RUSAGE_CHILDREN if engine == "llama.cpp" else resource.RUSAGE_SELF
    found.put((seconds, resource.getrusage(who).ru_maxrss / 1e6, told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder-1.5b-instruct")
    parser.add_argument("--rows", type=int, default=40)
    given = parser.parse_args()
    context, told = multiprocessing.get_context("spawn"), {}
    for engine in ("llama.cpp", "torch"):
        found = context.Queue()
        process = context.Process(target=read, args=(given.model, engine, given.rows, found))
        process.start()
        seconds, memory, told[engine] = found.get()
        process.join()
        print(
            f"{engine:10} {given.rows} rows in {seconds:.0f} s, {60 * given.rows / seconds:.1f} a minute, {memory:.1f} GB"
        )
    apart, alike = [], []
    for name, mine in told["llama.cpp"].items():
        theirs = told["torch"][name]
        alike += (mine.ids_T_K[:, 0] == theirs.ids_T_K[:, 0]).tolist()
        for ids, logs, others, other_logs in zip(*mine[1:], *theirs[1:], strict=True):
            both, left, right = np.intersect1d(ids, others, return_indices=True)
            apart.append(np.abs(np.exp(logs[left]) - np.exp(other_logs[right])).sum() if len(both) else 1.0)
    same, far = np.mean(alike), np.mean(apart)
    print(f"{len(alike)} tokens: the likeliest is the same at {same:.1%}; probabilities differ by {far:.3f}, summed")


if __name__ == "__main__":
    main()
