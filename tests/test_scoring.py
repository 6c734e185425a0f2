"""Scores against what a person or scipy computes: McNemar's test, bootstrap intervals, F1 by hand."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from workbench import Calls, Record
from workbench.scoring import mcnemar, median, shuffled, table_of, wilson


class OpenApp(BaseModel):
    """Open an app."""

    app: str


class SetTimer(BaseModel):
    """Count down."""

    minutes: int
    label: str | None = None


class Ticket(BaseModel):
    queue: str
    product: str | None
    summary: str


CALLS = Calls([OpenApp, SetTimer])
RECORD = Record(Ticket, ignore=["summary"])


def app(name: str) -> dict[str, object]:
    return {"name": "open_app", "arguments": {"app": name}}


def timer(minutes: int, **more: str) -> dict[str, object]:
    return {"name": "set_timer", "arguments": {"minutes": minutes, **more}}


def answers(only_a: int, only_b: int, both: int = 3, neither: int = 2) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 · 1/2
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),  # 0.109375
        (1, 9, 2 * (1 + 10) / 1024),
        (4, 4, 1.0),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    made = mcnemar(*answers(only_a, only_b))
    assert made[:4] == (3, only_a, only_b, 2)
    assert made.p == pytest.approx(p, abs=1e-12)


def test_mcnemar_as_scipy_has_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    for only_a, only_b in ((3, 11), (20, 9), (40, 60), (1, 1), (120, 90)):
        wanted = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
        assert mcnemar(*answers(only_a, only_b)).p == pytest.approx(wanted, rel=1e-9)


def test_mcnemar_wants_the_same_rows() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        mcnemar([True, True], [True])
    assert mcnemar([], []).p == 1.0


def test_mcnemar_of_very_many_rows_does_not_overflow() -> None:
    assert 0 <= mcnemar(*answers(1500, 1400)).p < 0.1


def test_a_table_by_hand() -> None:
    """Argument F1 is over all rows: 2 · hits / (said + wanted)."""
    pairs = [
        ([timer(10, label="Tea")], [timer(10, label="tea")]),  # all right, letter case apart: 2 hits of 2 and 2
        ([timer(10)], [timer(10, label="tea")]),  # an argument left out: 1 hit of 1 and 2
        ([app("maps")], [timer(10)]),  # a wrong function: 0 hits of 1 and 1
        (None, [app("maps")]),  # no answer: 0 hits of 0 and 1
        ([], []),  # rightly nothing: no argument at all
    ]
    table = table_of(CALLS, pairs)
    assert list(table) == ["exact", "name", "argument_f1"]
    assert table["exact"].value == pytest.approx(100 * 2 / 5)
    assert table["name"].value == pytest.approx(100 * 3 / 5)
    assert table["argument_f1"].value == pytest.approx(100 * 2 * 3 / ((2 + 1 + 1 + 0 + 0) + (2 + 2 + 1 + 1 + 0)))


def test_an_argument_said_twice_counts_once() -> None:
    assert CALLS.tally([app("maps"), app("maps")], [app("maps")])["argument_f1"] == (2.0, 3.0)
    assert CALLS.tally([app("maps"), app("maps")], [app("maps")])["exact"] == (0.0, 1.0)


def test_no_answer_is_never_right_even_where_nothing_is_wanted() -> None:
    assert CALLS.tally(None, []) == {"exact": (0.0, 1.0), "name": (0.0, 1.0), "argument_f1": (0.0, 0.0)}


def test_a_record_by_hand() -> None:
    target = {"queue": "billing", "product": None, "summary": "a"}
    pairs = [
        ({"queue": "Billing", "product": None, "summary": "else"}, target),
        ({"queue": "billing", "product": "kettle", "summary": "a"}, target),
        (None, target),
    ]
    table = table_of(RECORD, pairs)
    assert table["exact"].value == pytest.approx(100 / 3)
    assert table["field_accuracy"].value == pytest.approx(100 * 3 / 6)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_value(right: list[bool], seed: int) -> None:
    table = table_of(CALLS, [([app("maps")] if ok else [], [app("maps")]) for ok in right], rounds=400, seed=seed)
    for score in table.values():
        assert 0 <= score.low <= score.value + 1e-9
        assert score.value - 1e-9 <= score.high <= 100
    exact = table["exact"]
    assert exact.value == pytest.approx(100 * sum(right) / len(right))


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    """200 rows, 60 % right: ± 1.96 · sqrt(0.6 · 0.4 / 200) = 6.8 points."""
    rng = random.Random(0)
    right = [place < 120 for place in range(200)]
    rng.shuffle(right)
    exact = table_of(CALLS, [([app("maps")] if ok else [], [app("maps")]) for ok in right], rounds=4000)["exact"]
    half = 100 * 1.96 * math.sqrt(0.6 * 0.4 / 200)
    assert exact.low == pytest.approx(60 - half, abs=1.2)
    assert exact.high == pytest.approx(60 + half, abs=1.2)


def test_the_same_rows_give_the_same_interval() -> None:
    pairs = [([app("maps")] if n % 3 else [], [app("maps")]) for n in range(30)]
    assert table_of(CALLS, pairs) == table_of(CALLS, pairs)
    assert table_of(CALLS, [])["exact"] == (0.0, 0.0, 0.0)


def test_small_helpers() -> None:
    assert (median([]), median([3, 1, 2]), median([1, 2])) == (0.0, 2, 1.5)
    assert shuffled(range(9), 1) == shuffled(range(9), 1) != shuffled(range(9), 2)
    assert sorted(shuffled("abc", 0)) == ["a", "b", "c"]


@pytest.mark.parametrize(("count", "total"), [(0, 7), (1, 3), (15, 47), (80, 80)])
def test_wilson_is_scipys(count: int, total: int) -> None:
    from scipy.stats import binomtest

    found = wilson(count, total)
    theirs = binomtest(count, total).proportion_ci(method="wilson")
    assert (found.low, found.high) == (pytest.approx(100 * theirs.low), pytest.approx(100 * theirs.high))
    assert found.value == pytest.approx(100 * count / total)


def test_of_no_rows_all_is_possible() -> None:
    assert wilson(0, 0) == (0, 0, 100)
