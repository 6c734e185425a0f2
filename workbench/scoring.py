"""Scores over rows, with what can be said of their error: bootstrap intervals and McNemar's paired test.

Intervals: percentile bootstrap over rows, 95 %. Paired test: McNemar (1947), exact binomial form, two-sided, on the rows
that just one of the two got right.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.outputs import Output


class Score(NamedTuple):
    """In percent, with the 95 % interval."""

    value: float
    low: float
    high: float


Table = dict[str, Score]


class Paired(NamedTuple):
    """Counts of rows by who was right, and the two-sided p value."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


def table_of(output: Output, pairs: Sequence[tuple[Any, Any]], rounds: int = 1000, seed: int = 0) -> Table:
    """All metrics over (answer or None, target) pairs; each metric is a ratio of sums over rows."""
    tallies = [output.tally(value, target) for value, target in pairs]
    return {name: ratio([tally[name] for tally in tallies], rounds, seed) for name in output.metrics}


def ratio(rows: Sequence[tuple[float, float]], rounds: int = 1000, seed: int = 0) -> Score:
    """The sum of the first over the sum of the second, as a percentage."""
    import numpy as np

    if not rows:
        return Score(0.0, 0.0, 0.0)
    counts = np.asarray(rows, dtype=float)  # (rows, 2): numerator, denominator
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(rows), size=(rounds, len(rows)))
    sums = counts[picks].sum(axis=1)  # (rounds, 2)
    ratios = 100 * sums[:, 0] / np.maximum(sums[:, 1], 1e-12)
    total = counts.sum(axis=0)
    value = 100 * total[0] / total[1] if total[1] else 0.0
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Score(float(value), float(low), float(high))


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Paired comparison of two answerers on the same rows. Raises ValueError on unequal lengths."""
    pairs = list(zip(a, b, strict=True))
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    both = sum(x and y for x, y in pairs)
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n if n else 1.0
    return Paired(both, only_a, only_b, len(pairs) - n - both, min(1.0, 2 * tail))


def plainly_better(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a's sum over the rows is higher by more than one standard error of their paired difference: less is chance.
    Raises ValueError on unequal lengths."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return sum(differences) > math.sqrt(sum(each * each for each in differences))


def wilson(count: int, total: int) -> Score:
    """A share in percent with Wilson's 95 % interval (1927), which holds near 0 and 100 too. Of no rows all is possible."""
    if not total:
        return Score(0.0, 0.0, 100.0)
    z, share = 1.959964, count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Score(100 * share, 100 * max(0.0, middle - half), 100 * min(1.0, middle + half))


def median(values: Sequence[float]) -> float:
    import statistics

    return statistics.median(values) if values else 0.0


def shuffled(items: Sequence[Any], seed: int) -> list[Any]:
    copy = list(items)
    random.Random(seed).shuffle(copy)
    return copy


def permutation(a: Sequence[float], b: Sequence[float], rounds: int = 20_000, seed: int = 0) -> float:
    """Two-sided p value of the mean paired difference, by flipping the signs of the rows' differences at random (Fisher's
    randomization test); 1 where there is none. Raises ValueError on unequal lengths."""
    import numpy as np

    differences = np.array([x - y for x, y in zip(a, b, strict=True)], dtype=float)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    seen = abs(differences.sum())
    signs = np.random.default_rng(seed).integers(0, 2, size=(rounds, len(differences))) * 2 - 1
    as_far = int((abs(signs @ differences) >= seen - 1e-9).sum())
    return (as_far + 1) / (rounds + 1)
