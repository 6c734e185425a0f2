"""Several processes that train one student: as one would, in the same steps; told, and ended, with the run itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small import environment, timer
from torch import distributed
from torch.distributed.tensor import DTensor

from workbench.config import load_config
from workbench.errors import ConfigError, StudentError
from workbench.logits import LogitWriter, Row
from workbench.stages.job import Job, learn
from workbench.stages.launch import config_of, launched, try_launch
from workbench.students.batches import Encoded, weight
from workbench.students.crew import ALONE, Crew
from workbench.students.load import load_model, load_tokenizer
from workbench.students.lora import with_lora
from workbench.students.settings import Captured, DistilConfig, Pair, Progress, TrainConfig
from workbench.students.shards import shard
from workbench.students.taught import end_of_turn, name_of, tokenizer_digest

TIMERS = [(f"put a timer of {n} minutes", [timer(n)]) for n in range(1, 31)]
ROWS = tuple(Pair(prompt=said, completion=json.dumps(calls)) for said, calls in [*TIMERS, ("good morning", [])])
SETTINGS = TrainConfig(max_steps=6, tokens_per_step=300, evals=2, lr=1e-3, checkpoint_seconds=0)


def job(base: Path, work: Path, method: str = "sft", config: TrainConfig = SETTINGS, parent: Path | None = None) -> Job:
    work.mkdir()
    distil = DistilConfig(method=method, parent=str(parent or ""), hidden="cosine")
    return Job(base=base, rows=ROWS, dev=ROWS[:5], config=config, work=work, distil=distil)


def curve(work: Path) -> list[float]:
    return [
        line["loss"] for line in map(json.loads, (work / "history.jsonl").read_text().splitlines()) if "loss" in line
    ]


@pytest.mark.parametrize("launch", ["data_parallel", "fsdp"])
def test_two_processes_learn_as_one_does(smollm2_hf: Path, tiny: Path, tmp_path: Path, launch: str) -> None:
    """The text, what a parent thinks of it, and its hidden states: three kinds of weights in one loss."""
    alone, both = (job(tiny, tmp_path / name, "parent", parent=smollm2_hf) for name in ("alone", "both"))
    told: list[Progress] = []
    learn(alone, lambda _: None)
    launched(both, launch, told.append)
    one, two = curve(alone.work), curve(both.work)
    assert len(one) == len(two) == 6 and one[-1] < one[0]
    assert two == pytest.approx(one, rel=0.01)
    assert [progress.step for progress in told] == [0, 1, 2, 3, 4, 5, 6], "one of them tells"
    assert ("each of 2 processes holds 50% of the blocks' weights" in told[0].note) is (launch == "fsdp")
    summaries = [json.loads((each.work / "summary.json").read_text()) for each in (alone, both)]
    assert len({(made["tokens"], made["steps"], made["fingerprint"]) for made in summaries}) == 1, "the same batches"
    first, second = (load_file(each.work / "adapter" / "adapter_model.safetensors") for each in (alone, both))
    apart = sum(float((second[name] - tensor).norm()) for name, tensor in first.items())
    assert apart < 0.1 * sum(float(tensor.norm()) for tensor in first.values())


@pytest.mark.parametrize(("method", "launch"), [("kd", "data_parallel"), ("gkd", "fsdp")])
def test_two_processes_learn_what_a_teacher_thinks_as_one_does(
    tiny: Path, tmp_path: Path, method: str, launch: str
) -> None:
    """Stored distributions of half of the rows; for `gkd` a third of them are the student's own words."""
    rows = tuple(row.model_copy(update={"own": method == "gkd" and not at % 3}) for at, row in enumerate(ROWS))
    captured = (thought_of(tiny, tmp_path / "logits.bin", [row for at, row in enumerate(rows) if row.own or at % 2]),)
    alone, both = (
        job(tiny, tmp_path / name).model_copy(
            update={"distil": DistilConfig(method=method, k=4), "rows": rows, "captured": captured}
        )
        for name in ("alone", "both")
    )
    learn(alone, lambda _: None)
    launched(both, launch, lambda _: None)
    one, two = curve(alone.work), curve(both.work)
    assert len(one) == len(two) == 6 and two == pytest.approx(one, rel=0.01)
    text = job(tiny, tmp_path / "text")
    learn(text, lambda _: None)
    assert curve(text.work) != pytest.approx(one, rel=0.01), "it is not the text alone"


def thought_of(base: Path, file: Path, rows: list[Pair]) -> Captured:
    """What a teacher with the student's tokens might think: four of them at each place, drawn."""
    random, tokenizer = np.random.default_rng(0), load_tokenizer(base)
    size = len(tokenizer)
    with LogitWriter(
        file, tokenizer=str(base), fingerprint=tokenizer_digest(base), vocabulary=size, k=4, teacher="t"
    ) as writer:
        for row in rows:
            tokens = np.array([*tokenizer(row.completion)["input_ids"], end_of_turn(base)], np.int32)
            ids = np.stack([random.choice(size, 4, replace=False) for _ in tokens]).astype(np.int32)
            logprobs = np.tile(np.log([0.5, 0.25, 0.125, 0.0625]).astype(np.float32), (len(tokens), 1))
            writer.add(name_of(row.prompt, row.completion), Row(tokens, ids, logprobs))
    return Captured(file, base)


def test_with_fsdp_a_step_may_have_fewer_rows_than_processes(tiny: Path, tmp_path: Path) -> None:
    """The one that has none goes through the blocks all the same; weights that are rounded at the end are whole then."""
    config = SETTINGS.model_copy(update={"tokens_per_step": 20, "max_steps": 4})
    alone, both = (
        job(tiny, tmp_path / name, config=config).model_copy(update={"distil": DistilConfig(last_mile=0.5)})
        for name in ("alone", "both")
    )
    learn(alone, lambda _: None)
    launched(both, "fsdp", lambda _: None)
    assert curve(both.work) == pytest.approx(curve(alone.work), rel=0.01)
    assert json.loads((both.work / "summary.json").read_text())["rounded"]
    with pytest.raises(ConfigError, match="spread over processes there is none"):
        try_launch(load_config(runtime={"launch": "fsdp"}, train={"dropout": 0.1}, distil={"method": "sft"}))
    with pytest.raises(StudentError, match="spread over processes takes no dropout"):
        launched(job(tiny, tmp_path / "w", config=config.model_copy(update={"dropout": 0.1})), "fsdp", print)


def test_a_block_is_whole_only_while_it_computes(tiny: Path) -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        whole = load_model(tiny, dtype=torch.float32)
        model = with_lora(whole, r=2, alpha=4, dropout=0.0, dtype=torch.float32, unpacked=True)
        assert shard(model, Crew(sharded=True)) == 1.0, "one alone holds all"
        frozen = [name for name, param in model.named_parameters() if ".layers." in name and not param.requires_grad]
        for learns in (False, True):
            with torch.set_grad_enabled(learns):
                told: Any = model(torch.tensor([[5, 80, 300, 12]])).logits
            held = dict(model.named_parameters())
            assert frozen and all(isinstance(held[name], DTensor) for name in frozen)
        told.sum().backward()
        own = [param for param in model.parameters() if param.requires_grad]
        assert all(param.grad is not None and not isinstance(param, DTensor) for param in own)
    finally:
        distributed.destroy_process_group()


def test_what_goes_wrong_in_them_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="are longer than 8 tokens"):
        launched(
            job(tiny, tmp_path / "w", config=SETTINGS.model_copy(update={"max_length": 8})), "data_parallel", print
        )
    with pytest.raises(ConfigError, match="there is no nowhere"):
        config_of("nowhere")
    other = tmp_path / "other.yaml"
    for told in ("distributed_type: DEEPSPEED\n", "distributed_type: MULTI_GPU\nnum_machines: 2\n", "[]\n"):
        other.write_text(told)
        with pytest.raises(ConfigError, match="machines"):
            config_of(str(other))
    other.write_text("distributed_type: FSDP\nfsdp_config:\n  fsdp_version: 1\n")
    with pytest.raises(ConfigError, match="fsdp_version 1"):
        config_of(str(other))
    other.write_text("distributed_type: MULTI_GPU\nnum_processes: many\n")
    with pytest.raises(StudentError, match="the training processes ended with"):
        launched(job(tiny, tmp_path / "x"), str(other), print)


def test_each_row_is_somebodys() -> None:
    rows = list(range(7))
    shares = [Crew(rank, 3).share(rows) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == rows
    assert Crew(1, 2).share([4]) == []
    assert ALONE.share(rows) == rows and ALONE.said(5) == ALONE.sum(5) == 5


def test_what_rows_weigh_together() -> None:
    rows = [Encoded([1] * 10, 4, range(6)), Encoded([1] * 9, 7, range(2))]
    assert (weight(rows, 0.0), weight(rows, 1.0)) == (8, 2)


PROGRAM = """
import sys
from workbench.stages.launch import launched
from workbench.stages.job import Job
launched(Job.model_validate_json(open(sys.argv[1]).read()), "data_parallel", lambda p: print(p.step, flush=True))
"""


def test_they_end_with_the_run_that_is_killed(tiny: Path, tmp_path: Path) -> None:
    long = job(
        tiny, tmp_path / "w", config=SETTINGS.model_copy(update={"max_steps": 20_000, "epochs": 30_000, "evals": 1})
    )
    (tmp_path / "job.json").write_text(long.model_dump_json())
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "job.json")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()).strip() != "3":
            assert line, "it ended before"
        assert len(workers(process.pid)) == 2
        os.kill(process.pid, signal.SIGKILL)
    until = time.monotonic() + 30
    while workers(process.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert not workers(process.pid)


def workers(parent: int) -> list[int]:
    """Processes that were told to end with this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, told = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"WORKBENCH_TRAINING_PARENT={parent}".encode() in told and b"accelerate.commands" not in command:
            found.append(int(folder.name))
    return found
