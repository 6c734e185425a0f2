"""Steering: towards what there is least of."""

import random
from collections import Counter
from pathlib import Path

import pytest
from small import calling, opening, timer, write_task

from workbench import registry
from workbench.declaration import Task
from workbench.outputs.cells import counted
from workbench.sources.recombine import recombine
from workbench.sources.steering import Steering
from workbench.sources.values import pools_of


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return registry.load(str(write_task(tmp_path)))


def test_what_there_is_least_of_is_needed_most(task: Task) -> None:
    steering = Steering(task.output, [[opening("maps")]] * 9 + [[calling("Zoe")]])
    drawn = [[opening("chess")], [calling("Anna")], [timer(10)]]
    assert steering.neediest(drawn, list) == [timer(10)], "none of its cells holds anything but `1 call`"
    assert steering.need([opening("chess")]) < steering.need([calling("Anna")]) < steering.need([timer(10)])
    for _ in range(20):
        steering.take([timer(10)])
    assert steering.neediest(drawn, list) == [calling("Anna")]
    assert steering.neediest(drawn[:1], list) == drawn[0], "of one there is no choice"


def test_all_come_in_turn_and_the_rare_ones_first(task: Task) -> None:
    items = [("open", n) for n in range(6)] + [("timer", n) for n in range(2)]
    random.Random(0).shuffle(items)
    answers = {"open": [opening("maps")], "timer": [timer(10)]}
    steering = Steering(task.output, [[opening("maps")]] * 4)
    order = list(steering.in_turn(items, lambda item: answers[item[0]]))
    assert sorted(order) == sorted(items)
    assert [kind for kind, _ in order[:2]] == ["timer", "timer"]
    assert [item for item in order if item[0] == "open"] == [item for item in items if item[0] == "open"]


def test_recombined_rows_are_spread_over_the_cells(task: Task) -> None:
    seeds = task.examples("seed")
    rows = [*seeds, *[seed for seed in seeds if task.output.group(seed.target) == "open_app"] * 4]
    pools = pools_of(task.output, [row.target for row in rows])

    def share(steer: int) -> float:
        made = recombine(task, rows, pools, 60, 0, join_share=0, steer=steer)
        found: Counter[str] = counted(task.output, [row.target for row in made])
        return found["open_app"] / len(made)

    assert share(4) < 0.8 * share(1)
    assert recombine(task, rows, pools, 40, 1) == recombine(task, rows, pools, 40, 1, steer=1)
