"""What only the machine can tell is measured once, and the least that is as good as the best is taken."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from small import question

from workbench import measured
from workbench.measured import fastest
from workbench.students.generate import Generator, Job
from workbench.students.load import load_model
from workbench.teachers import embedded
from workbench.teachers.embedded import EmbeddedTeacher


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    return tmp_path


class Machine:
    """Measures what it was told to be."""

    def __init__(self, **rates: float) -> None:
        self.rates, self.asked = {int(count[1:]): rate for count, rate in rates.items()}, list[int]()

    def __call__(self, count: int) -> float:
        self.asked.append(count)
        return self.rates[count]


@pytest.mark.parametrize(
    ("rates", "chosen", "asked"),
    [
        ({"n2": 1.0, "n4": 2.0, "n8": 3.0}, 8, [2, 2, 4, 8]),
        ({"n2": 1.0, "n4": 2.0, "n8": 2.05}, 4, [2, 2, 4, 8]),  # as good, and less memory
        ({"n2": 1.0, "n4": 0.5, "n8": 9.0}, 2, [2, 2, 4]),
        ({"n2": 1.0, "n4": 0.0, "n8": 9.0}, 2, [2, 2, 4]),  # out of memory
    ],
)
def test_the_least_that_is_as_good_as_the_best(
    rates: dict[str, float], chosen: int, asked: list[int], cache: Path
) -> None:
    machine = Machine(**rates)
    assert fastest("slots", (8, 2, 4), machine) == chosen
    assert machine.asked == asked
    assert fastest("slots", (8, 2, 4), machine) == chosen and machine.asked == asked, "it is remembered"
    assert fastest("lines", (8, 2, 4), machine) == chosen and len(machine.asked) == 2 * len(asked), "for this alone"


def test_a_torn_memory_is_measured_anew(cache: Path) -> None:
    (cache / measured.FILE).write_text('{"slots, 2 co')
    machine = Machine(n1=1.0)
    assert fastest("slots", (1,), machine) == 1
    assert list(json.loads((cache / measured.FILE).read_text()).values()) == [{"1": 1.0}]
    assert [path.name for path in cache.iterdir()] == [measured.FILE]


def test_slots_of_a_real_server(smollm2: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SLOTS", (1, 2))
    teacher = EmbeddedTeacher(smollm2, model="small", licence="", slots=0, threads=2, timeout_s=120)

    async def ask() -> None:
        try:
            assert (await teacher.complete(question("Hello there", max_tokens=4))).text
        finally:
            await teacher.aclose()

    asyncio.run(ask())
    ((name, rates),) = json.loads((cache / measured.FILE).read_text()).items()
    assert "small" in name and set(rates) == {"1", "2"} and min(rates.values()) > 0


def test_lines_of_a_real_model(smollm2_hf: Path, cache: Path) -> None:
    """Timing leaves nothing behind: what is written afterwards is what was written before."""
    model = load_model(smollm2_hf, dtype=torch.float32)
    generator = Generator(model, frozenset({2}))
    jobs = [Job((5, 9, 20, 7), 6), Job((11, 8, 20), 6)]
    before = generator.generate(jobs)
    assert generator.pace(3) > 0
    assert generator.generate(jobs) == before
    generator.lines = 1
    assert [generator.generate([job])[0] for job in jobs] == before
