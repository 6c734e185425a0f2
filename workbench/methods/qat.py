"""Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877): the text, in the last steps by weights that are rounded to
the grid of the file that is to ship, which any other method does with `distil.last_mile`. The gradient passes straight through
the rounding (students/grid.py)."""

from workbench.methods.base import Method


class Qat(Method):
    name = "qat"
    title = "the rows' text"
    last_mile = 0.3
