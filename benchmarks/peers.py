"""The workbench beside distilabel and bespokelabs-curator: requests a second at one server, on one machine, in one run.

    python benchmarks/peers.py [--candidates 3000] [--in-flight 64] [--latency 0.2] [--repeat 3] [--home FOLDER]

Each peer lives in a virtual environment of its own under `--home`, made on first use. All ask the server of `throughput.py` the
same chats, 64 at a time, judge each answer by four validators, and cache nothing of an earlier run. The workbench keeps its
ledger on the disk meanwhile. distilabel asks in batches of as many as are in flight and judges in a step of its own, curator in
`parse`; curator counts words in the place of tokens. What is timed is from the first request that the server received to its
last answer: start-up counts for nobody.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from throughput import Measured, measured, served, workbench

VALIDATORS = """\
import json


def call(text):
    (found,) = json.loads(text)
    return found["name"], found["arguments"]


def parses(asked, text):
    return text.startswith("[") and call(text) is not None


def schema(asked, text):
    name, values = call(text)
    return name == "set_timer" and 1 <= values["minutes"] <= 1000000 and isinstance(values["label"], str)


def grounded(asked, text):
    return all(str(value).casefold() in asked.casefold() for value in call(text)[1].values())


def equivalent(asked, text):
    return json.loads(json.dumps(call(text), sort_keys=True)) == list(call(text))


JUDGES = [parses, schema, grounded, equivalent]
"""
DISTILABEL = """\
import json, sys
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration
from judges import JUDGES

url, in_flight, texts = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))


@step(inputs=["instruction", "generation"], outputs=["passed"])
def Judged(rows: StepInput):  # all four in one: each step is a process
    yield [row | {"passed": all(judge(row["instruction"], row["generation"]) for judge in JUDGES)} for row in rows]


if __name__ == "__main__":
    with Pipeline("peer") as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": text} for text in texts], batch_size=in_flight)
        llm = OpenAILLM(model="quick", base_url=url, api_key="none", generation_kwargs={"max_new_tokens": 64})
        load >> TextGeneration(llm=llm, input_batch_size=in_flight) >> Judged(input_batch_size=in_flight)
    made = pipeline.run(use_cache=False)["default"]["train"]
    assert len(made) == len(texts)
    assert all(row["passed"] for row in made)
"""
CURATOR = """\
import json, os, sys
os.environ.update(OPENAI_API_KEY="none", CURATOR_DISABLE_CACHE="1", TELEMETRY_ENABLED="false", HF_HUB_OFFLINE="1")
import tiktoken
from judges import JUDGES


class Words:  # its own vocabulary is downloaded from a place that not every machine reaches; splitting is cheaper
    def encode(self, text, **_):
        return text.split()


tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_: Words()
from bespokelabs import curator


class Asked(curator.LLM):
    def prompt(self, row):
        return row["text"]

    def parse(self, row, response):
        return {"passed": all(judge(row["text"], response) for judge in JUDGES)}


url, in_flight, texts = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
llm = Asked(
    model_name="gpt-4o-mini",
    backend="openai",
    generation_params={"max_tokens": 64},
    backend_params={"base_url": url, "api_key": "none", "max_concurrent_requests": in_flight,
                    "max_requests_per_minute": 10_000_000, "max_tokens_per_minute": 1_000_000_000_000},
)
from datasets import Dataset
made = llm(Dataset.from_list([{"text": text} for text in texts]))
rows = getattr(made, "dataset", made)
assert len(rows) == len(texts)
assert all(row["passed"] for row in rows)
"""
PEERS = {
    "distilabel": (["distilabel[openai]==1.5.3", "requests"], DISTILABEL),
    "curator": (["bespokelabs-curator==0.1.31"], CURATOR),
}


def python_of(name: str, home: Path) -> Path:
    """The interpreter of a peer's own environment, made if need be."""
    folder = home / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PEERS[name][0]], check=True)
        (folder / "installed").touch()
    return python


def peer(name: str, python: Path, candidates: int, in_flight: int, latency_s: float) -> Measured:
    with tempfile.TemporaryDirectory() as temporary, served(latency_s) as url:
        folder = Path(temporary)
        (folder / "peer.py").write_text(PEERS[name][1])
        (folder / "judges.py").write_text(VALIDATORS)
        texts = [f"please put a timer {100 + n} minutes for tea" for n in range(candidates)]
        (folder / "texts.json").write_text(json.dumps(texts))
        os.environ["CURATOR_CACHE_DIR"] = os.environ["DISTILABEL_CACHE_DIR"] = os.environ["HF_HOME"] = str(
            folder / "cache"
        )
        return measured([str(python), "peer.py", url, str(in_flight), "texts.json"], folder, url, in_flight / latency_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "workbench" / "peers")
    args = parser.parse_args()
    pythons = {name: python_of(name, args.home) for name in PEERS}
    runs: dict[str, list[Measured]] = {"workbench": [], **{name: [] for name in PEERS}}
    for _ in range(args.repeat):  # in turn: an hour's slowness is everybody's
        runs["workbench"].append(workbench(args.candidates, args.in_flight, args.latency))
        for name, python in pythons.items():
            runs[name].append(peer(name, python, args.candidates, args.in_flight, args.latency))
    ours = median(run.a_second for run in runs["workbench"])
    for name, found in runs.items():
        rate = median(run.a_second for run in found)
        print(f"{name}: {rate:.0f} a second, {100 * median(run.share for run in found):.1f} % of the ideal, "
              f"{median(run.cpu_ms for run in found):.2f} ms of CPU each, the workbench {ours / rate:.1f} times as fast",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
