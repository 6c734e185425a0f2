"""Learning from what the student itself does, for any teacher (Ross et al. 2011, DAgger, arXiv:1011.0686): it answers inputs
that nobody answered yet. What the cheap validators let pass is learned, and the teacher is asked about the rest."""

from workbench.methods.base import Method


class Dagger(Method):
    name = "dagger"
    title = (
        "the rows' text, of which some is the student's own where the validators let it pass, and a teacher's where not"
    )
    attempts = "unanswered"
    rounds = 2
