"""Reasoning: arithmetic in prose -> the steps in equations, then the number they come to.

"Four boxes of a dozen eggs each, and five are cracked. How many are good?"
{"steps":"4 * 12 = 48; 48 - 5 = 43","answer":43}

`word_answers` has the same data and asks for the number alone. `word_asides` has its teacher write the steps, which are
recomputed there too, and its student learn them beside the number, which is all that it writes.
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
    steps: str = Field(max_length=200, description="Equations, a semicolon between them")
    answer: Number = Field(description="What the last equation comes to, a number without a unit")


class Aside(Solution):
    steps: str = Field("", max_length=200, description="Equations, a semicolon between them")


INSTRUCTIONS = """\
Solve a problem in arithmetic that somebody tells in their own words, and fill in a JSON record.
steps: one to four short equations such as 4 * 12 = 48; 48 - 5 = 43, in the order of thought, a semicolon between them.
An equation has numbers, + - * / and parentheses on its left and one number on its right, no words, units or signs of money.
Its numbers are those of the problem, or what an equation before it came to: say 12 for a dozen, / 2 for half, / 100 for per
cent, 7 for the days of a week, 60 for the minutes of an hour, 1000 for the metres of a kilometre. Leave out what is told
and not needed. Do not round on the way.
answer: the number that the last equation comes to, in the unit that is asked for."""


@task(version=1)
def word_problems() -> Task:
    """Solve an arithmetic problem told in prose, step by step."""
    return Task(
        prompt=Prompt(
            input=Problem,
            output=Record(Solution, rationale=("steps",)),
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
            reject({"text": "2 and 3, together?"}, '{"answer":5}', by="schema"),
            reject({"text": "2 and 3, together?"}, '{"steps":"","answer":5}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 6","answer":6}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 5","answer":6}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 4 = 6","answer":6}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"two and three are 5","answer":5}', by="recomputes"),
            reject({"text": "2 for 0 people, each?"}, '{"steps":"2 / 0 = 0","answer":0}', by="recomputes"),
            reject({"text": "9 and 9 more?"}, '{"steps":"9 ** 9 = 387420489","answer":387420489}', by="recomputes"),
        ],
    )  # fmt: skip


@task(version=1)
def word_asides() -> Task:
    """Solve an arithmetic problem told in prose, the number alone, with the steps learned aside."""
    return Task(
        prompt=Prompt(
            input=Problem,
            output=Record(Aside, rationale=("steps",), aside=True),
            instructions=INSTRUCTIONS,
            student="{text}",
        ),
        data=Data.folder("data/word_problems"),
        validators=[parses(), schema(), recomputes(), equivalent()],
        sources=("seed", "corpus"),
        probes=[
            accept({"text": "Half of 7 litres"}, '{"steps":"7 / 2 = 3.5","answer":3.5}'),
            reject({"text": "2 and 3, together?"}, '{"answer":5}', by="recomputes"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 5","answer":6}', by="recomputes"),
        ],
    )
