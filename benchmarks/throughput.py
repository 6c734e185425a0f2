"""How busy one process keeps an API: candidates a second, CPU a candidate and peak memory of the sampling stage.

    python benchmarks/throughput.py [--candidates 10000] [--in-flight 64] [--latency 0.2] [--repeat 5]

A server of its own process answers every chat after the latency (`quick_server.py`); the workbench samples a corpus of inputs
that no two are alike, four validators a candidate, everything into a ledger on the disk, as in any run. The ideal is
in-flight / latency. What is timed is from the first request that the server received to its last answer.

Beside it stands `openai`'s async client alone, which sends the same chats and does nothing else. Marginal CPU is that of one
more request: start-up, measured by a run of few, is left out. Our own is what the workbench takes beyond the client.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

TASK = '''\
from pydantic import BaseModel, Field
from workbench import Calls, Data, Prompt, Task, task
from workbench.validators import equivalent, grounded, parses, schema


class Utterance(BaseModel):
    text: str = Field(min_length=1, max_length=400)


class SetTimer(BaseModel):
    """Count down."""

    minutes: int = Field(ge=1, le=1000000)
    label: str | None = None


@task(version=1)
def timers() -> Task:
    """Turn one request into calls."""
    return Task(
        prompt=Prompt(Utterance, Calls([SetTimer]), "Turn what is said into calls."),
        data=Data.folder("data"),
        validators=[parses(), schema(), grounded(), equivalent()],
        sources=("seed", "corpus"),
    )
'''
CLIENT = """\
import asyncio, json, sys
import httpx
from openai import AsyncOpenAI, DefaultAioHttpClient

url, in_flight, count, block = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
lanes = asyncio.Semaphore(in_flight)
options = {"max_retries": 0, "timeout": 60, "headers": {}, "params": {}}


async def one(client, number):
    async with lanes:
        last = {"role": "user", "content": f"please put a timer {100 + number} minutes for tea"}
        body = {"model": "quick", "messages": [*block, last], "temperature": 0.0, "top_p": 1.0, "max_tokens": 256}
        content = json.dumps(body).encode()
        answer = await client.post("/chat/completions", cast_to=httpx.Response, content=content, options=options)
        json.loads(answer.content)["choices"][0]["message"]["content"]


async def main():
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=DefaultAioHttpClient()) as client:
        await asyncio.gather(*(one(client, number) for number in range(count)))


asyncio.run(main())
"""
FEW = 64  # requests, to know what start-up takes
FIRST = "amber birch cobalt dune ember falcon granite harbour island jungle kettle lantern meadow needle oasis pepper"
SECOND = "bread soup tea pasta rice stew cake curry broth beans roast sauce pudding pizza porridge dumplings"


class Measured(NamedTuple):
    """`cpu_ms` is user and system time of the whole process a candidate, start-up included."""

    requests: int
    a_second: float
    share: float
    cpu_ms: float
    peak_mb: float

    def marginal(self, few: "Measured") -> float:
        """The milliseconds of one more request, by what `few` took."""
        return (self.cpu_ms * self.requests - few.cpu_ms * few.requests) / (self.requests - few.requests)


def write_project(folder: Path, candidates: int) -> None:
    """A task with eight seeds and a corpus of so many inputs."""
    rng = random.Random(0)
    (folder / "data").mkdir(parents=True)
    (folder / "timers.py").write_text(TASK)

    def row(number: int, labelled: bool) -> str:
        label = f"{rng.choice(FIRST.split())} {rng.choice(SECOND.split())}"
        made: dict[str, Any] = {"input": {"text": f"please put a timer {number} minutes for {label}"}}
        if labelled:
            made["target"] = [{"name": "set_timer", "arguments": {"minutes": number, "label": label}}]
        return json.dumps(made) + "\n"

    for at, split in enumerate(("seeds", "dev", "test")):
        (folder / "data" / f"{split}.jsonl").write_text("".join(row(8 * at + n + 1, True) for n in range(8)))
    (folder / "data" / "corpus.jsonl").write_text("".join(row(100 + n, False) for n in range(candidates)))


@contextmanager
def served(latency_s: float) -> Iterator[str]:
    """The base URL of a fresh server."""
    script = Path(__file__).with_name("quick_server.py")
    process = subprocess.Popen(
        [sys.executable, str(script), "--latency", str(latency_s)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stats") as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def measured(arguments: list[str], folder: Path, url: str, ideal: float) -> Measured:
    """Runs a client to its end and asks the server what came."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (folder / "out.txt").open("w") as out:
        process = subprocess.Popen(arguments, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env=compiled)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments[0]} failed:\n{(folder / 'out.txt').read_text()[-2000:]}")
    seen = stats(url)
    rate = seen["received"] / seen["seconds"]
    cpu = (usage.ru_utime + usage.ru_stime) * 1000 / seen["received"]
    assert seen["received"] == seen["distinct"], "nothing is asked twice"
    return Measured(seen["received"], rate, rate / ideal, cpu, usage.ru_maxrss / 1024)


def workbench(candidates: int, in_flight: int, latency_s: float) -> Measured:
    with tempfile.TemporaryDirectory() as temporary, served(latency_s) as url:
        folder = Path(temporary)
        write_project(folder, candidates)
        sets = (f"teacher.base_url={url}", "shots.mode=fixed", f"runtime.concurrency={in_flight}",
                "sample.max_calls=10000000", "sample.max_tokens=100000000000", "sample.max_minutes=600",
                "sample.candidates=1")  # fmt: skip
        command = [sys.executable, "-c", "from workbench.cli import main; main()", "run", "timers.py", "--until", "sample",
                   "--teacher", "quick", *(word for item in sets for word in ("--set", item))]  # fmt: skip
        os.environ.setdefault("OPENAI_API_KEY", "none-is-needed")
        found = measured(command, folder, url, in_flight / latency_s)
        (funnel,) = folder.glob(".workbench/store/sample/*/*/funnel.json")
        told = json.loads(funnel.read_text())
        assert told["passed"] == told["candidates"] == told["wishes"] == found.requests, told
        return found


def client(candidates: int, in_flight: int, latency_s: float) -> Measured:
    """`openai`'s client alone, with as long a few-shot block as the workbench sends: eight seeds and the instructions."""
    answer = '[{"name":"set_timer","arguments":{"minutes":5,"label":"amber bread"}}]'
    asked = "please put a timer 5 minutes for amber bread"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    block = json.dumps([{"role": "system", "content": "Turn what is said into calls. " * 20}, *turns * 8])
    with tempfile.TemporaryDirectory() as temporary, served(latency_s) as url:
        arguments = [sys.executable, "-c", CLIENT, url, str(in_flight), str(candidates), block]
        return measured(arguments, Path(temporary), url, in_flight / latency_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    shape = (args.in_flight, args.latency)
    workbench(FEW, *shape)  # bytecode is written, once
    few, few_client = workbench(FEW, *shape), client(FEW, *shape)
    runs, alone = list[Measured](), list[Measured]()
    for _ in range(args.repeat):  # in turn: an hour's slowness is both's
        runs.append(workbench(args.candidates, *shape))
        alone.append(client(args.candidates, *shape))
        print(
            f"{runs[-1].requests} requests, {runs[-1].a_second:.0f} a second; the client alone {alone[-1].a_second:.0f}",
            flush=True,
        )
    own, theirs = (median(run.marginal(start) for run in all_) for all_, start in ((runs, few), (alone, few_client)))
    for name, all_, marginal in (("workbench", runs, own), ("openai's client alone", alone, theirs)):
        rate, share = median(run.a_second for run in all_), 100 * median(run.share for run in all_)
        cpu, peak = median(run.cpu_ms for run in all_), median(run.peak_mb for run in all_)
        print(f"{name}: {rate:.0f} a second, {share:.1f} % of the ideal, {cpu:.2f} ms of CPU each, {marginal:.2f} ms marginal, "
              f"{peak:.0f} MB at the peak")  # fmt: skip
    print(f"our own: {own - theirs:.2f} ms a candidate, and {few.cpu_ms * few.requests / 1000:.1f} s to start")


if __name__ == "__main__":
    main()
