"""recomputes: true equations over what the problem says, and nothing else; and the two tasks that rest on the same data."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from workbench.validators import recomputes
from workbench.validators.arithmetic import said

from workbench import Data, Prompt, Record, Task, registry
from workbench.outputs import ParseError
from workbench.trial import try_task
from workbench.types import Judged


class Problem(BaseModel):
    text: str


class Solution(BaseModel):
    steps: str
    answer: float


TASK = Task(
    prompt=Prompt(Problem, Record(Solution, rationale=["steps"]), "Solve it."),
    data=Data.folder("."),
    validators=[recomputes()],
)


def reason(text: str, steps: str, answer: Any) -> str:
    """Why the validator refuses; empty where it does not."""
    value = {"steps": steps, "answer": answer}
    judged = Judged(TASK.example({"text": text}, split="new"), json.dumps(value), value)
    return recomputes().judge(judged, TASK).reason


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("4 boxes of 12, five broken", "4 * 12 = 48; 48 - 5 = 43", 43),
        ("4 boxes of a dozen, five broken", "4 * 12 = 48\n48 - 5 = 43", 43.0),
        ("a third of 45", "45 / 3 = 15", 15),
        ("a hundred and twenty-five and 1,200", "125 + 1200 = 1325;", 1325),
        ("15% off £80", "80 * 15 / 100 = 12; 80 - 12 = 68", 68),
        ("15 per cent off 80", "80 * 0.15 = 12; 80 - 12 = 68", 68),
        ("it was -4, then 11 warmer", "-4 + 11 = 7", 7),
        ("two at 0.10 and one at 0.20", "2 * 0.10 = 0.2; 0.2 + 0.20 = 0.4", 0.4),  # exact, as floats are not
        ("an hour and a half at 2.40", "1.5 * 2.40 = 3.6", 3.6),
        ("2½ cups, 3 times", "2.5 * 3 = 7.5", 7.5),
        ("half an hour and 10 minutes", "30 + 10 = 40", 40),
        ("every weekday 20", "5 * 20 = 100", 100),
        ("7 each, me and 3 friends", "3 + 1 = 4; (4) * 7 = 28", 28),
    ],
)
def test_what_is_true_and_said_passes(text: str, steps: str, answer: float) -> None:
    assert reason(text, steps, answer) == ""


@pytest.mark.parametrize(
    ("steps", "answer", "why"),
    [
        ("2 + 3 = 6", 6, "'2 + 3 = 6' is wrong: it is 5"),
        ("2 / 3 = 0.67", 0.67, "is wrong: it is 2/3"),
        ("2 + 4 = 6", 6, "4 in '2 + 4 = 6' is neither said nor what a step before it came to"),
        ("2 * 3 = 6; 6 + 5 = 11", 11, "5 in '6 + 5 = 11' is neither said"),
        ("2 + 3 = 5", 6, "the steps come to 5, the answer is 6"),
        ("2 + 3 = 5", "5 cats", "the steps come to 5"),
        ("", 5, "there are no steps"),
        (" ; ;", 5, "there are no steps"),
        ("2 = 2", 2, "nothing is reckoned in '2 = 2'"),
        ("2 + 3", 5, "is no equation such as 4 * 12 = 48"),
        ("2 + 3 = 5 = 5", 5, "is no equation"),
        ("2 cats + 3 = 5", 5, "is no equation"),
        ("2 + (3 = 5", 5, "is no equation"),
        ("= 5", 5, "is no equation"),
        ("2 + 3 = five", 5, "is no equation"),
        ("2 + 3 = 5e0", 5, "is no equation"),
        ("__import__('os') = 1", 1, "is no equation"),
        ("2 / (3 - 3) = 0", 0, "divides by zero"),
        ("2 ** 3 = 8", 8, "only + - * / and parentheses"),
        ("3 // 2 = 1", 1, "only + - * / and parentheses"),
        ("2(3) + 2 = 6", 6, "only + - * / and parentheses"),
        ("... + 2 = 2", 2, "holds what is no number"),
        ("2 + " + "3" * 60 + " = 5", 5, "holds what is no number"),
        ("(" * 300 + "2 + 3" + ")" * 300 + " = 5", 5, "is no equation"),
        ("9 ** 9 ** 9 = 1", 1, ""),
        ("; ".join(["2 + 3 = 5"] * 13), 5, "13 steps are too many"),
    ],
)
def test_what_is_not_is_refused_with_a_reason(steps: str, answer: Any, why: str) -> None:
    found = reason("2 and 3, together?", steps, answer)
    assert found and why in found


def test_a_text_that_is_no_answer_is_refused() -> None:
    judged = Judged(TASK.example({"text": "2 and 3"}, split="new"), "five", None)
    assert recomputes().judge(judged, TASK).reason == "there is no answer to recompute"


@pytest.mark.parametrize(
    ("text", "some", "none"),
    [
        ("two hundred and fifty", ["250"], ["200", "50", "2"]),
        ("a thousand and one nights", ["1001"], ["1000"]),
        ("three thousand two hundred", ["3200"], ["3", "200"]),
        ("four ninety-nine", ["4", "99", "4.99"], ["103"]),
        ("forty 5 six", ["40", "5", "6"], ["45", "11"]),
        ("fifteen hundred", ["1500"], ["15"]),
        ("1,250 or 2,50 or 1.5 million", ["1250", "2.5", "1500000"], ["3"]),
        ("3/4 and 2 1/2", ["0.75", "2.5"], ["5"]),
        ("about one and a half hours", ["1.5", "60", "0.5"], ["90"]),
        ("for an hour and a half", ["90", "1.5"], ["45"]),
        ("three-quarters of an hour", ["45", "0.75"], ["15"]),
        ("half a dozen, a kilo and a fortnight", ["6", "12", "14", "1000"], ["24", "26"]),
        ("it's 20p", ["20", "0.2", "100"], ["5"]),
        ("scores of sweeping minutes", ["60"], ["20", "7"]),
        ("nothing at all", ["1"], ["2", "100"]),
    ],
)
def test_what_a_text_lets_one_reckon_with(text: str, some: list[str], none: list[str]) -> None:
    found = said(text)
    assert set(map(Fraction, some)) <= found
    assert not set(map(Fraction, none)) & found


@given(st.text(alphabet="0123456789.+-*/()=; \n", max_size=60), st.text(max_size=40), st.floats() | st.integers())
@settings(max_examples=300, deadline=None)
def test_whatever_comes_it_does_not_crash(steps: str, text: str, answer: float) -> None:
    reason(text or "x", steps, answer)


def test_the_answer_is_spelled_as_people_do() -> None:
    output = registry.load("word_problems").output
    assert output.dump(output.parse('{"answer": 43.0, "steps": "s"}')) == '{"steps":"s","answer":43}'
    assert output.dump(output.parse('{"steps": "s", "answer": "2.50"}')) == '{"steps":"s","answer":2.5}'
    assert output.same(output.parse('{"steps": "a", "answer": 3}'), output.parse('{"steps": "b", "answer": 3.0}'))
    with pytest.raises(ParseError):
        output.parse('{"steps": "s", "answer": 1e999}')


def test_with_steps_a_wrong_number_is_caught_and_without_them_it_is_not() -> None:
    reasoned, bare = (try_task(registry.load(name)) for name in ("word_problems", "word_answers"))
    assert reasoned.ok and bare.ok, (reasoned.problems, bare.problems)
    assert reasoned.rows == bare.rows == {"seed": 60, "dev": 60, "test": 160, "corpus": 300}
    assert reasoned.validators == ("parses", "schema", "recomputes", "equivalent")
    wrong = {trial.task: {line.kind: line for line in trial.lines}["wrong number"] for trial in (reasoned, bare)}
    assert wrong["word_problems"].together.passed == 0 < wrong["word_problems"].together.total
    assert wrong["word_answers"].together.passed == wrong["word_answers"].together.total


def test_the_two_tasks_read_the_same_rows() -> None:
    reasoned, bare = registry.load("word_problems"), registry.load("word_answers")
    for ours, theirs in zip(reasoned.examples("test"), bare.examples("test"), strict=True):
        assert ours.id == theirs.id and theirs.target == {"answer": ours.target["answer"]}
        assert round(ours.target["answer"], 2) == ours.target["answer"]
    aside = registry.load("word_asides")
    assert Path(reasoned.data.root) == Path(bare.data.root) == Path(aside.data.root)
    assert aside.prompt.instructions == reasoned.prompt.instructions and try_task(aside).ok
    value = reasoned.examples("test")[0].target
    assert aside.output.aside(value) == value["steps"]
    assert aside.output.student_text(value) == bare.output.dump({"answer": value["answer"]})
