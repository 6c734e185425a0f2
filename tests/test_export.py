"""Which of the quantized files ships."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from workbench.config import ExportConfig
from workbench.errors import EdgeError
from workbench.stages import export
from workbench.stages.context import Context
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


@pytest.mark.parametrize(
    ("plain", "weighted", "kept", "said"),
    [
        (51.6, 44.9, "plain", "without an importance matrix (44.9 with it)"),
        (44.9, 51.6, "weighted", "by an importance matrix of the task's own rows (44.9 without)"),
        (50.0, 50.0, "weighted", "by an importance matrix of the task's own rows (50.0 without)"),
    ],
)
def test_the_matrix_is_used_where_it_is_no_worse_on_dev(
    plain: float, weighted: float, kept: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantize(full: Path, out: Path, quant: str, *, imatrix: Path | None = None) -> Path:
        out.write_text("weighted" if imatrix else "plain")
        return out

    def scored(context: object, name: str, path: Path) -> Made:
        size = path.stat().st_size
        return Made(name=name, size_bytes=size, dev_exact={"plain": plain, "weighted": weighted}[path.read_text()])

    monkeypatch.setattr(export, "quantize", quantize)
    monkeypatch.setattr(export, "_scored", scored)
    context = cast(Context, SimpleNamespace(out=tmp_path))
    made = export._better(context, "Q4_0", tmp_path / "full.gguf", tmp_path / "matrix.gguf")
    assert (made.name, made.dev_exact, made.note) == ("Q4_0", max(plain, weighted), said)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"Q4_0.gguf": kept}
    assert made.size_bytes == len(kept)
