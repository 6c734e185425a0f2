"""The problems of `word_problems`, answered by the number alone: what is the rationale worth to a student?

"Four boxes of a dozen eggs each, and five are cracked. How many are good?"
{"answer":43}

Nothing here can recompute an answer to a problem of the corpus: what the teacher says is learned.
"""

from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainSerializer
from workbench.validators import equivalent, parses, schema

from workbench import Data, Prompt, Record, Task, accept, reject, task


class Problem(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


def spelled(value: float) -> int | float:
    """43, not 43.0."""
    return int(value) if value.is_integer() else value


Number = Annotated[float, Field(allow_inf_nan=False), PlainSerializer(spelled, return_type=int | float)]


class Answer(BaseModel):
    answer: Number = Field(description="A number without a unit")


INSTRUCTIONS = """\
Solve a problem in arithmetic that somebody tells in their own words, and fill in a JSON record.
answer: the number alone, in the unit that is asked for. Leave out of account what is told and not needed."""


def without_steps(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "target": {"answer": row["target"]["answer"]}} if "target" in row else row


@task(version=1)
def word_answers() -> Task:
    """Solve an arithmetic problem told in prose, the number alone."""
    return Task(
        prompt=Prompt(input=Problem, output=Record(Answer), instructions=INSTRUCTIONS, student="{text}"),
        data=Data.folder("data/word_problems", read=without_steps),
        validators=[parses(), schema(), equivalent()],
        sources=("seed", "corpus"),  # with its numbers exchanged, a problem has another answer
        probes=[
            accept({"text": "Half of 7 litres"}, '{"answer":3.5}'),
            accept({"text": "2 and 3, together?"}, '{"answer":5.0}'),
            reject({"text": "2 and 3, together?"}, "5 of them", by="parses"),
            reject({"text": "2 and 3, together?"}, '{"answer":"five"}', by="schema"),
            reject({"text": "2 and 3, together?"}, '{"steps":"2 + 3 = 5","answer":5}', by="schema"),
        ],
    )
