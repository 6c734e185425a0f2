"""The problems of `word_problems`; the teacher writes steps, and the student learns them beside the number that it writes.

"Four boxes of a dozen eggs each, and five are cracked. How many are good?"
{"answer":43}

What the teacher answers is recomputed, as there; the file answers as briefly as that of `word_answers`.
"""

from typing import Annotated

from pydantic import BaseModel, Field, PlainSerializer
from workbench.validators import equivalent, parses, recomputes, schema

from workbench import Data, Prompt, Record, Task, accept, reject, task


class Problem(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


def spelled(value: float) -> int | float:
    """43, not 43.0."""
    return int(value) if value.is_integer() else value


Number = Annotated[float, Field(allow_inf_nan=False), PlainSerializer(spelled, return_type=int | float)]


class Solution(BaseModel):
    steps: str = Field("", max_length=200, description="Equations, a semicolon between them")
    answer: Number = Field(description="What the last equation comes to, a number without a unit")


INSTRUCTIONS = """\
Solve a problem in arithmetic that somebody tells in their own words, and fill in a JSON record.
steps: one to four short equations such as 4 * 12 = 48; 48 - 5 = 43, in the order of thought, a semicolon between them.
An equation has numbers, + - * / and parentheses on its left and one number on its right, no words, units or signs of money.
Its numbers are those of the problem, or what an equation before it came to: say 12 for a dozen, / 2 for half, / 100 for per
cent, 7 for the days of a week, 60 for the minutes of an hour, 1000 for the metres of a kilometre. Leave out what is told
and not needed. Do not round on the way.
answer: the number that the last equation comes to, in the unit that is asked for."""


@task(version=1)
def word_asides() -> Task:
    """Solve an arithmetic problem told in prose, the number alone, with the steps learned aside."""
    return Task(
        prompt=Prompt(
            input=Problem,
            output=Record(Solution, rationale=("steps",), aside=True),
            instructions=INSTRUCTIONS,
            student="{text}",
        ),
        data=Data.folder("data/word_problems"),
        validators=[parses(), schema(), recomputes(), equivalent()],
        sources=("seed", "corpus"),  # with its numbers exchanged, a problem has another answer
        probes=[
            accept({"text": "Four boxes of a dozen eggs, five are cracked. How many are good?"},
                   '{"steps":"4 * 12 = 48; 48 - 5 = 43","answer":43}'),
            accept({"text": "A £24 shirt at 25% off, what do I pay?"},
                   '{"steps":"24 * 25 / 100 = 6; 24 - 6 = 18","answer":18.0}'),
            accept({"text": "Half of 7 litres"}, '{"steps":"7 / 2 = 3.5","answer":3.5}'),
            reject({"text": "2 and 3, together?"}, '2 + 3 = 5', by="parses"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 5","answer":"five"}', by="schema"),
            reject({"text": "2 and 3, together?"}, '{"answer":5}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 6","answer":6}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 5","answer":6}', by="recomputes"),
        ],
    )  # fmt: skip
