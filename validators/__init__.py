"""Validators: what an answer must be before a student may learn from it. Each gives a reason a person can read.

    structure.py       parses, schema: is it an answer at all?
    grounding.py       grounded: are the values found in the input, or derivable by a declared rule?
    cues.py            cued, asked, apart: does the input say what the answer says, and no more?
    equivalence.py     equivalent: does it ask for the same as the known target?
    arithmetic.py      recomputes: is each step of a reckoning true, and made of what the input says?
    execution.py       executes, runs: does the SQL, the Python run, and give what the known target's gives? (in a sandbox)
    second_look.py     round_trip, vote: what does the teacher say when it is asked again? (costs calls)

A validator is any object with `name` and `judge(judged, task) -> Check`; `simple` makes one from a function.
"""

from workbench.validators.arithmetic import recomputes
from workbench.validators.cues import apart, asked, cued
from workbench.validators.equivalence import equivalent
from workbench.validators.execution import executes, runs
from workbench.validators.grounding import grounded, minutes, number, percent
from workbench.validators.second_look import round_trip, vote
from workbench.validators.simple import simple
from workbench.validators.structure import parses, schema

__all__ = [
    "apart", "asked", "cued", "equivalent", "executes", "grounded", "minutes", "number", "parses", "percent", "recomputes",
    "round_trip", "runs", "schema", "simple", "vote",
]  # fmt: skip
