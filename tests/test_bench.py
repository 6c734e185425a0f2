"""Heavy validators judge in other processes: who asks is not held up, and a process that dies costs one verdict."""

# 0.4 seconds of a core each: judged inline, each would hold up the loop for as long

import asyncio
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from servers import TeacherServer
from small import TASK, here, sampling, write_task

from workbench import registry
from workbench.declaration import Task
from workbench.judge import Bench, bench_for, judge
from workbench.types import Verdict

HEAVY = '''

class Slow:
    """Counts for a while; says which process it was, and dies where it is told to."""

    name, heavy = "slow", True

    def judge(self, judged, task):
        import os, time
        until = time.process_time() + 0.4
        while time.process_time() < until:
            pass
        if "die" in judged.example.input["text"]:
            os._exit(1)
        from workbench.types import Check
        return Check(validator="slow", outcome="fail", reason=str(os.getpid()))

'''
MAPS = '[{"name":"open_app","arguments":{"app":"maps"}}]'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


@pytest.fixture
def task(project: Path) -> Task:
    made = TASK.replace("\n\n@task(", HEAVY + "\n@task(").replace(
        "[parses(), schema(),", "[Slow(), parses(), schema(),"
    )
    (project / "talk.py").write_text(made)
    return registry.load(str(project / "talk.py"))


async def judged(task: Task, bench: Bench, said: str, text: str = MAPS) -> Verdict:
    return await judge(task, task.example({"text": said}, split="new"), text, None, bench)


def test_it_judges_elsewhere_and_the_loop_goes_on(task: Task) -> None:
    async def use() -> None:
        bench = bench_for(task, 2)
        assert bench is not None
        await asyncio.gather(*(judged(task, bench, f"open chess {n}") for n in range(4)))  # the processes are there
        longest, last, stop = 0.0, time.monotonic(), asyncio.Event()

        async def tick() -> None:
            nonlocal longest, last
            while not stop.is_set():
                await asyncio.sleep(0.005)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()

        ticking = asyncio.create_task(tick())
        verdicts = await asyncio.gather(*(judged(task, bench, f"open maps {n}") for n in range(4)))
        stop.set()
        await ticking
        bench.close()
        assert {verdict.checks[-1].validator for verdict in verdicts} == {"slow"}
        processes = {verdict.checks[-1].reason for verdict in verdicts}
        assert str(os.getpid()) not in processes
        assert 1 <= len(processes) <= 2
        assert longest < 0.35, "0.4 seconds of judging are not to be felt here"

    asyncio.run(use())


def test_light_ones_come_first_and_spare_the_heavy_ones(task: Task) -> None:
    assert [validator.name for validator in task.cheap] == ["parses", "schema", "grounded", "equivalent", "slow"]

    async def use() -> None:
        bench = bench_for(task, 1)
        verdict = await judged(task, bench, "open maps", "Sure!")
        assert verdict.checks[-1].validator == "parses"
        assert bench._pool is None

    asyncio.run(use())


def test_a_process_that_dies_is_an_error_of_the_validator_and_the_next_one_judges(task: Task) -> None:
    async def use() -> None:
        bench = bench_for(task, 2)
        said = ["open maps 1", "open maps and die", "open maps 2", "open maps 3"]
        first, died, *others = await asyncio.gather(*(judged(task, bench, text) for text in said))
        assert (died.outcome, died.reason) == ("error", "slow: the process that judges died")
        assert {verdict.outcome for verdict in (first, *others)} == {"fail"}
        assert (await judged(task, bench, "open maps")).outcome == "fail"
        bench.close()

    asyncio.run(use())


def test_no_bench_without_heavy_validators(project: Path) -> None:
    assert bench_for(registry.load(str(project / "talk.py")), 2) is None


def test_a_run_judges_with_them_and_leaves_no_process(task: Task, project: Path, server: TeacherServer) -> None:
    file = project / "talk.py"
    file.write_text(
        file.read_text().replace("schema(), grounded(),", "schema(),").replace('by="grounded"', 'by="slow"')
    )
    arguments = sampling(server.base_url, "sample.inverse=4", "sample.values_per_slot=0")
    done = here(project, *("sample" if word == "select" else word for word in arguments))
    assert done.returncode == 0, done.stderr
    assert "slow" in next(project.glob(".workbench/store/sample/*/*/candidates.jsonl")).read_text()
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not multiprocessing.active_children()
