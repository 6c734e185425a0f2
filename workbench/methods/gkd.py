"""Generalized knowledge distillation (Agarwal et al. 2024, arXiv:2306.13649): the student writes, and a teacher that runs here
says what it thinks of each token. Round by round: what is scored in one is what the student wrote after the last."""

from workbench.methods.kd import Kd


class Gkd(Kd):
    name = "gkd"
    title = "beside the rows' text, what the teacher thinks of each token that the student itself wrote"
    captures = "attempts"
    attempts = "rows"
    rounds = 2
    divergence = "jsd"
