"""Supervised fine-tuning: the rows' text alone, which a teacher wrote and validators let pass (Kim and Rush 2016,
sequence-level distillation, arXiv:1606.07947)."""

from workbench.methods.base import Method


class Sft(Method):
    name = "sft"
    title = "the rows' text"
