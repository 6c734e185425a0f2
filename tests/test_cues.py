"""cued, asked, apart, and the two ends of a grounded text: what the input says against what the answer says."""

from typing import Literal

import pytest
from pydantic import BaseModel
from workbench.validators import apart, asked, cued, grounded

from workbench import Calls, Data, Prompt, Record, Task
from workbench.declaration import Validator
from workbench.outputs import Output, ParseError
from workbench.types import Judged


class Utterance(BaseModel):
    text: str


class SendMessage(BaseModel):
    contact: str
    body: str


class GetDirections(BaseModel):
    destination: str
    mode: Literal["walking", "driving"] | None = None


class Ticket(BaseModel):
    queue: Literal["billing", "sales"]
    product: str | None


CALLS = Calls((SendMessage, GetDirections))


def reason(validator: Validator, said: str, answer: str, output: Output = CALLS, folder: str = ".") -> str:
    """Why the validator refuses; empty where it does not."""
    task = Task(prompt=Prompt(Utterance, output, "Do it."), data=Data.folder(folder), validators=[validator])
    value = task.output.parse(answer)
    return validator.judge(Judged(task.example({"text": said}, split="new"), answer, value), task).reason


DRIVING = '[{"name":"get_directions","arguments":{"destination":"oslo","mode":"driving"}}]'


def test_a_choice_needs_a_word_for_it() -> None:
    validator = cued({"get_directions.mode=driving": r"\bdriv|\bcar\b", "send_message": "tell"})
    assert reason(validator, "the way to oslo by Car", DRIVING) == ""
    assert reason(validator, "the way to oslo", DRIVING) == "nothing in the input says get_directions.mode=driving"


def test_a_function_needs_a_word_for_it() -> None:
    answer = '[{"name":"send_message","arguments":{"contact":"jo","body":"hi"}}]'
    assert reason(cued({"send_message": "tell"}), "TELL jo hi", answer) == ""
    assert "says send_message" in reason(cued({"send_message": "tell"}), "jo hi", answer)


def test_a_field_of_a_record_needs_a_word_for_it() -> None:
    validator, output = cued({"queue=billing": "charged|invoice"}), Record(Ticket)
    assert reason(validator, "charged twice", '{"queue":"billing","product":null}', output) == ""
    assert "queue=billing" in reason(validator, "is it in stock", '{"queue":"billing","product":null}', output)


def test_what_is_asked_for_is_in_the_answer() -> None:
    validator = asked({"send_message": r"^tell \w+ \w"})
    assert reason(validator, "tell jo hi", "[]") == "the input says 'tell jo h', and the answer has no send_message"
    assert reason(validator, "tell jo hi", '[{"name":"send_message","arguments":{"contact":"jo","body":"hi"}}]') == ""
    assert reason(validator, "nothing to tell", "[]") == ""


def test_no_value_swallows_another_wish() -> None:
    answer = '[{"name":"send_message","arguments":{"contact":"jo","body":"i\'m late AND play abba"}}]'
    assert reason(apart(r"\band play\b"), "x", answer) == "send_message.body goes on with 'and play'"
    assert reason(apart(r"\band call\b"), "x", answer) == ""


@pytest.mark.parametrize(("place", "fault"), [("oslo please", "ends"), ("the oslo", "begins"), ("oslo", "")])
def test_words_that_a_value_leaves_out(place: str, fault: str) -> None:
    answer = f'[{{"name":"get_directions","arguments":{{"destination":"{place}"}}}}]'
    found = reason(grounded(leading=("the",), trailing=("please",)), "way to the oslo please", answer)
    assert fault in found and bool(found) == bool(fault)


def test_a_key_that_stands_twice_is_no_answer() -> None:
    with pytest.raises(ParseError, match="'body' stands twice"):
        CALLS.parse('[{"name":"send_message","arguments":{"contact":"jo","body":"a","body":"b"}}]')
