"""New rows from old ones: what the answer says stands in the text, and the same seed makes the same rows."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from workbench.validators import equivalent, grounded, parses, schema

from workbench import Calls, Data, Prompt, Record, Task
from workbench.declaration import Validator
from workbench.errors import TaskError
from workbench.judge import judge_cheap
from workbench.outputs import Output
from workbench.sources.recombine import recombine
from workbench.sources.values import drawn, exchanged, number_span, pools_of, spans
from workbench.sources.writer import AnswerWriter, InputWriter, ValueWriter, measured_style
from workbench.stages.stock import Stands
from workbench.types import Example


class Utterance(BaseModel):
    text: str = Field(min_length=1, max_length=120)


class OpenApp(BaseModel):
    """Open an app."""

    app: str


class SendMessage(BaseModel):
    """Write to a person."""

    contact: str
    body: str


class SetTimer(BaseModel):
    """Count down."""

    minutes: int = Field(ge=1, le=600)
    label: str | None = None


class SetOven(BaseModel):
    """Heat the oven."""

    degrees: int = Field(ge=50, le=300)


class Ticket(BaseModel):
    queue: str
    order_number: str | None
    summary: str


CALLS = Calls([OpenApp, SendMessage, SetTimer, SetOven])
VALIDATORS: list[Validator] = [parses(), schema(), grounded(), equivalent()]


def task_of(output: Output = CALLS) -> Task:
    return Task(Prompt(Utterance, output, "Do it."), Data(Path()), VALIDATORS, title="Turns a wish into calls.")


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def examples(task: Task, rows: Sequence[tuple[str, Any]]) -> list[Example]:
    return [task.example({"text": text}, split="seed", target=target) for text, target in rows]


ROWS: list[tuple[str, Any]] = [
    ("open the calculator for me", [call("open_app", app="calculator")]),
    ("Please launch Google Maps", [call("open_app", app="Google Maps")]),
    ("text Ana that I am late", [call("send_message", contact="Ana", body="I am late")]),
    ("tell Dr Okafor see you at the pool", [call("send_message", contact="Dr Okafor", body="see you at the pool")]),
    ("timer 10 minutes", [call("set_timer", minutes=10)]),
    ("twenty five minutes for the bread", [call("set_timer", minutes=25, label="bread")]),
    ("7 min tea then open notes", [call("set_timer", minutes=7, label="tea"), call("open_app", app="notes")]),
    ("oven to 180", [call("set_oven", degrees=180)]),
    ("what a day", []),
]


def made_of(rows: Sequence[tuple[str, Any]], count: int, seed: int, output: Output = CALLS) -> list[Example]:
    task = task_of(output)
    seeds = examples(task, rows)
    return recombine(task, seeds, pools_of(output, [row.target for row in seeds]), count, seed)


def test_every_made_row_is_right_and_new() -> None:
    made = made_of(ROWS, 300, seed=3)
    assert len(made) == 300
    task = task_of()
    for example in made:
        verdict = judge_cheap(task, example, CALLS.dump(example.target))
        assert verdict.outcome == "pass", (example.input, example.target, verdict.reason)
        assert (example.split, example.source) == ("new", "recombine")
    assert len({example.id for example in made}) == 300
    assert not {example.id for example in made} & {example.id for example in examples(task, ROWS)}


def test_all_that_it_can_do_is_done() -> None:
    made = made_of(ROWS, 400, seed=1)
    texts = {example.input["text"] for example in made}
    timers = [c["arguments"]["minutes"] for e in made for c in e.target if c["name"] == "set_timer"]
    assert len(set(timers)) > 10, "numbers are exchanged"
    assert any("ninety" in text for text in texts), "a number in words stays in words"
    assert any(text.startswith("Please launch") and "Google Maps" not in text for text in texts)
    assert {c["arguments"]["degrees"] for e in made for c in e.target if c["name"] == "set_oven"} <= set(range(50, 301))
    assert any(len(example.target) == 3 for example in made), "said in one breath"
    assert any(e.input["text"].islower() and "google maps" in e.input["text"] for e in made)
    assert any("calculator" not in text and "open the " in text for text in texts)


def test_the_same_seed_makes_the_same_rows() -> None:
    assert made_of(ROWS, 50, seed=5) == made_of(ROWS, 50, seed=5)
    assert made_of(ROWS, 50, seed=5) != made_of(ROWS, 50, seed=6)
    assert made_of(ROWS, 50, seed=5)[:20] == made_of(ROWS, 20, seed=5), "more rows are the same rows and some more"


def test_it_ends_where_there_is_nothing_to_make() -> None:
    assert made_of([("a", [])], 10, seed=0) is not None
    assert made_of(ROWS, 0, seed=0) == []


def test_a_row_too_long_for_the_task_is_not_made() -> None:
    long = [(f"open {name} {'really ' * 12}now", [call("open_app", app=name)]) for name in ("maps", "chess", "notes")]
    made = made_of(long, 40, seed=0)
    assert made
    assert all(len(example.input["text"]) <= 120 and len(example.target) == 1 for example in made)


def test_a_value_within_another_is_not_torn() -> None:
    row = ("tell Tom to call Ana", [call("send_message", contact="Tom", body="call Ana"), call("open_app", app="Ana")])
    for example in made_of([row, ("open chess", [call("open_app", app="chess")])], 60, seed=0):
        for slot in CALLS.slots(example.target):
            assert spans(slot.value, example.input["text"]), example


def test_a_value_said_twice_is_kept() -> None:
    row = ("open maps, maps I said", [call("open_app", app="maps")])
    made = made_of([row, ("open chess", [call("open_app", app="chess")])], 40, seed=0)
    alone = [example for example in made if "i said" in example.input["text"].lower() and len(example.target) == 1]
    assert alone
    assert {example.target[0]["arguments"]["app"] for example in alone} == {"maps"}


def test_a_record_changes_its_summary_too() -> None:
    record = Record(Ticket, ignore=["summary"])
    rows = [
        ("order AB-1234 never came", {"queue": "delivery", "order_number": "AB-1234", "summary": "AB-1234 is late"})
    ]
    for example in made_of(rows, 20, seed=0, output=record):
        number = example.target["order_number"]
        assert number.lower() in example.input["text"].lower()
        assert number.lower() in example.target["summary"].lower()
        assert len(number) == 7, "a code keeps its shape"


NAMES = "amber birch cobalt dune ember fjord grove harbour iris jetty kelp Lagoon Marsh Nectar"
WORDS = st.sampled_from(NAMES.split())
VALUE = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
ROW = st.one_of(
    VALUE.map(lambda v: (f"open {v} please", [call("open_app", app=v)])),
    st.tuples(VALUE, VALUE).map(
        lambda v: (f"write to {v[0]}: {v[1]}!", [call("send_message", contact=v[0], body=v[1])])
    ),
    st.integers(1, 600).map(lambda n: (f"timer for {n} minutes", [call("set_timer", minutes=n)])),
    st.tuples(st.integers(1, 90), VALUE).map(
        lambda v: (f"{v[1]}, {v[0]} minutes", [call("set_timer", minutes=v[0], label=v[1])])
    ),
    st.integers(50, 300).map(lambda n: (f"oven at {n}", [call("set_oven", degrees=n)])),
    VALUE.map(lambda v: (f"nice {v} today", [])),
)


@given(st.lists(ROW, min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_seeds_every_made_row_is_grounded(rows: list[tuple[str, Any]], seed: int) -> None:
    task = task_of()
    for example in made_of(rows, 15, seed):
        verdict = judge_cheap(task, example, CALLS.dump(example.target))
        assert verdict.outcome == "pass", (example.input, example.target, verdict.reason)


@given(st.lists(ROW, min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_exchanged_answers_are_answers(rows: list[tuple[str, Any]], seed: int) -> None:
    pools = pools_of(CALLS, [target for _, target in rows])
    for _, target in rows:
        new = exchanged(CALLS, target, pools, random.Random(seed))
        assert CALLS.canonical(new) == new
        assert CALLS.group(new) == CALLS.group(target)


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("maps", "open Maps", ["Maps"]),
        ("map", "open maps", []),
        ("an", "an Ana an", ["an", "an"]),
        ("C++", "learn C++ now", ["C++"]),
        ("6:30", "at 6:30 or 16:30", ["6:30"]),
        ("a.b", "axb", []),
    ],
)
def test_spans_are_whole_words(value: str, text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in spans(value, text)] == found


def test_where_a_number_stands() -> None:
    assert number_span(25, "timer 25 min") == ((6, 8), True)
    assert number_span(25, "timer twenty-five min") == ((6, 17), False)
    assert number_span(25, "timer twenty five min") == ((6, 17), False)
    assert number_span(25, "25 and 25") is None
    assert number_span(5, "timer 15") is None


def test_drawing() -> None:
    rng = random.Random(0)
    slots = {slot.name: slot for slot in CALLS.slots([call("send_message", contact="A-12", body="hi you")])}
    assert [drawn(slots["send_message.contact"], {}, rng)[:2] for _ in range(3)] == ["A-"] * 3
    assert drawn(slots["send_message.body"], {}, rng) == "hi you", "nothing in the pool: it stays"
    assert pools_of(CALLS, [[call("open_app", app="Maps")], [call("open_app", app="maps")]]) == {
        "open_app.app": ["Maps"]
    }


def test_the_value_writer_reads_what_is_a_value() -> None:
    task = task_of()
    writer = ValueWriter(task, examples(task, ROWS))
    assert set(writer.values) == {"open_app.app", "send_message.contact", "send_message.body", "set_timer.label"}
    text = 'Here are some: \n1. the plumber\n- Dr. Ng,\n"Oma"\n{"a": 1}\n\n2) ' + "x" * 90 + "\nAunt May."
    assert writer.read(text) == ["the plumber", "Dr. Ng", "Oma", "Aunt May"]
    asked = writer.messages("send_message.contact", random.Random(0))[-1].content
    assert "send_message.contact" in asked
    assert all(value in asked for value in writer.values["send_message.contact"])


def test_the_answer_writer_reads_what_is_an_answer() -> None:
    task = task_of()
    writer = AnswerWriter(task, examples(task, ROWS))
    assert set(writer.groups) == {"open_app", "send_message", "set_timer", "set_oven"}, "an empty answer has no values"
    text = (
        'Sure:\n1. [{"name":"open_app","arguments":{"app":"a"}}],\n{"name":"open_app"}\n[{"name":"fly","arguments":{}}]\n'
        '[{"name":"open_app","arguments":{"app":"b"}}]\n[{"name":"open_a'
    )
    assert writer.read(text) == [[call("open_app", app="a")], [call("open_app", app="b")]]


@pytest.mark.parametrize(
    ("value", "stands"), [("Dr. Ng", True), ("oma", True), ("the plumber", False), ("x" * 200, False)]
)
def test_a_value_stands_where_the_tasks_validators_let_it(value: str, stands: bool) -> None:
    """`the` is a word that the task leaves out; the input of the task holds 120 characters."""
    checks: list[Validator] = [parses(), schema(), grounded(leading=("the",))]
    task = Task(Prompt(Utterance, CALLS, "Do it."), Data(Path()), checks, title="Turns a wish into calls.")
    assert Stands(task, examples(task, ROWS), "send_message.contact")(value) is stands


def test_small_things() -> None:
    assert measured_style("one two three") == "about 3 words, lower case"
    assert measured_style("One two three four five six seven") == "about 5 words, with capitals"


class Question(BaseModel):
    text: str
    phone_book: str


def test_what_is_given_beside_the_written_field_stays_with_its_rows() -> None:
    """The longer field is the given one: length has no say in which is written."""
    task = Task(Prompt(Question, CALLS, "Do it."), Data(Path()), VALIDATORS, title="Turns a wish into calls.")
    books = {
        "anna, ben, carla and the whole street": ("anna", "ben"),
        "dan, eve, fritz and the village": ("dan", "eve"),
    }
    rows = [
        task.example(
            {"text": f"tell {name} {body}", "phone_book": book},
            split="seed",
            target=[{"name": "send_message", "arguments": {"contact": name, "body": body}}],
        )
        for book, names in books.items()
        for name in names
        for body in ("the soup is ready", "we leave at nine")
    ]
    made = recombine(task, rows, pools_of(CALLS, [row.target for row in rows]), 40, 0)
    assert len(made) > 20 and {row.input["phone_book"] for row in made} == set(books)
    for row in made:
        assert {call["arguments"]["contact"] for call in row.target} <= set(books[row.input["phone_book"]])
    assert any(len(row.target) == 2 for row in made)

    writer = InputWriter(task, rows)
    system, *shots, last = writer.messages(rows[0].target, "short", task.given(rows[0].input))
    assert "(text)" in system.content
    assert shots[1].content in {row.input["text"] for row in rows}, "what is written is the text alone"
    assert rows[0].input["phone_book"] in last.content and "answer: " in last.content


def test_what_a_person_writes_is_the_first_field_and_text() -> None:
    class Ticket(BaseModel):
        number: int
        text: str

    with pytest.raises(TaskError, match="first field of Ticket is not `str`"):
        Prompt(Ticket, CALLS, "Do it.")
