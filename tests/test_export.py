"""Which of the quantized files ships."""

import pytest

from workbench.config import ExportConfig
from workbench.errors import EdgeError
from workbench.stages.export import UNQUANTIZED, Made, choose

CONFIG = ExportConfig(max_drop=2.0, max_ratio=0.1)
FULL = Made(name=UNQUANTIZED, size_bytes=270, dev_exact=60.0)


def files(**exact: float) -> list[Made]:
    """By name, which ends with the size: `q140=58` has 140 bytes and 58 % exact on dev."""
    return [FULL, *(Made(name=name, size_bytes=int(name[1:]), dev_exact=score) for name, score in exact.items())]


@pytest.mark.parametrize(
    ("made", "teacher_bytes", "chosen"),
    [
        (files(q140=60, q105=58, q90=57.9), 1100, "q105"),  # the smallest within the drop
        (files(q140=60, q105=63, q90=58), 1100, "q90"),
        (files(q140=60, q105=50, q90=40), 1100, "q105"),  # none is near: the best of those that are small enough
        (files(q140=60, q105=50, q90=50), 1100, "q90"),  # of two alike the smaller
        (files(q140=60, q105=58, q90=57.9), 800, "q105"),  # none is small enough: the smallest that is near
        (files(q140=50, q105=40), 800, "q140"),  # neither: the best
        (files(q140=60, q105=50), 0, "q140"),  # a teacher behind an API has no size
    ],
)
def test_the_smallest_that_is_near_enough_ships(made: list[Made], teacher_bytes: int, chosen: str) -> None:
    assert choose(made, CONFIG, teacher_bytes).name == chosen


def test_without_a_quantization_nothing_ships() -> None:
    with pytest.raises(EdgeError, match="no quantization was asked for"):
        choose([FULL], CONFIG, 0)
