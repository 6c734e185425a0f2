"""What an answer is: one spelling for each, what is the same, what is refused and why."""

import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from workbench import Calls, Record
from workbench.outputs import ParseError, Slot
from workbench.outputs.base import fold


class SetTimer(BaseModel):
    """Count down a length of time."""

    minutes: int = Field(ge=1, le=1440)
    label: str | None = None


class OpenApp(BaseModel):
    """Open an app.

    Any app.
    """

    app: str
    mode: Literal["window", "full"] = "window"


class DimHTTPLight(BaseModel):
    """Dim."""

    level: float = 0.5
    on: bool = True


class Ticket(BaseModel):
    summary: str
    queue: Literal["billing", "delivery"] = Field(description="What has to be done.")
    order_number: str | None
    items: int = 1


CALLS = Calls([SetTimer, OpenApp, DimHTTPLight])
RECORD = Record(Ticket, ignore=["summary"])


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def text(*calls: dict[str, Any]) -> str:
    return json.dumps(list(calls))


# --- calls ---


def test_names_and_description() -> None:
    assert list(CALLS.functions) == ["set_timer", "open_app", "dim_httplight"]
    assert CALLS.describe().splitlines() == [
        "set_timer(minutes: 1-1440, label?: text) Count down a length of time.",
        "open_app(app: text, mode?: window|full) Open an app.",
        "dim_httplight(level?: number, on?: true|false) Dim.",
    ]


@pytest.mark.parametrize(
    ("said", "canonical"),
    [
        (call("set_timer", minutes=10), call("set_timer", minutes=10)),
        (call("set_timer", minutes="10"), call("set_timer", minutes=10)),
        (call("set_timer", minutes=10.0), call("set_timer", minutes=10)),
        (call("set_timer", label="tea", minutes=10), call("set_timer", minutes=10, label="tea")),
        (call("set_timer", minutes=10, label=None), call("set_timer", minutes=10)),
        (call("open_app", app="maps", mode="window"), call("open_app", app="maps")),
        (call("open_app", app="maps", mode="full"), call("open_app", app="maps", mode="full")),
        (call("dim_httplight", level=1, on="true"), call("dim_httplight", level=1.0)),
        (call("dim_httplight", level="0.5"), call("dim_httplight")),
    ],
)
def test_one_spelling_for_each_call(said: dict[str, Any], canonical: dict[str, Any]) -> None:
    value = CALLS.parse(text(said))
    assert value == [canonical]
    assert CALLS.dump(value) == json.dumps([canonical], separators=(",", ":"))
    assert CALLS.parse(CALLS.dump(value)) == value


@pytest.mark.parametrize(
    ("said", "stage", "reason"),
    [
        ("", "json", "not JSON"),
        ('Sure! [{"name": "open_app"}]', "json", "not JSON"),
        ('[{"name":"open_app","arguments":{"app":"maps"}}', "json", "not JSON"),
        ("[] []", "json", "not JSON"),
        ("{}", "schema", "not a list"),
        ("null", "schema", "not a list"),
        ("[3]", "schema", "call 0: must have exactly"),
        (text({"name": "open_app"}), "schema", "call 0: must have exactly"),
        (text({**call("open_app", app="x"), "id": 1}), "schema", "call 0: must have exactly"),
        (text(call("fly")), "schema", "call 0: no function is called 'fly'"),
        (text(call("OpenApp", app="x")), "schema", "no function is called 'OpenApp'"),
        (json.dumps([{"name": ["x"], "arguments": {}}]), "schema", "no function is called"),
        (json.dumps([{"name": "open_app", "arguments": "x"}]), "schema", "`arguments` is not an object"),
        (text(call("open_app", app="x"), call("open_app")), "schema", "open_app.app: Field required"),
        (text(call("open_app", app="x", colour="red")), "schema", "open_app has no argument 'colour'"),
        (text(call("open_app", app=3)), "schema", "open_app.app: Input should be a valid string"),
        (text(call("open_app", app="x", mode="tiny")), "schema", "open_app.mode"),
        (text(call("set_timer", minutes=0)), "schema", "set_timer.minutes"),
        (text(call("set_timer", minutes=10.5)), "schema", "set_timer.minutes"),
        (text(call("set_timer", minutes="ten")), "schema", "set_timer.minutes"),
        (text(*[call("open_app", app="x")] * 4), "schema", "4 calls, at most 3"),
    ],
)
def test_what_is_no_answer_and_why(said: str, stage: str, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        CALLS.parse(said)
    assert caught.value.stage == stage
    assert reason in str(caught.value)


def test_a_json_text_that_is_nested_too_deep_is_no_answer() -> None:
    with pytest.raises(ParseError):
        CALLS.parse("[" * 100_000)


@pytest.mark.parametrize("said", ["[NaN]", '[{"name":"dim_httplight","arguments":{"level":NaN}}]', "1" * 5000])
def test_numbers_that_json_does_not_have(said: str) -> None:
    with pytest.raises(ParseError):
        CALLS.parse(said)


def test_what_asks_for_the_same() -> None:
    def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return CALLS.same(CALLS.canonical([a]), CALLS.canonical([b]))

    assert same(call("open_app", app="Google  Maps"), call("open_app", app="google maps"))
    assert same(call("open_app", app="ｍａｐｓ"), call("open_app", app="maps"))
    assert same(call("open_app", app="Straße"), call("open_app", app="STRASSE"))
    assert same(call("open_app", app="x", mode="window"), call("open_app", app="x"))
    assert same(call("set_timer", minutes="10"), call("set_timer", minutes=10))
    assert not same(call("set_timer", minutes=10), call("set_timer", minutes=10, label="tea"))
    assert not same(call("open_app", app="map"), call("open_app", app="maps"))


def test_the_order_counts_unless_it_does_not() -> None:
    a, b = call("open_app", app="maps"), call("set_timer", minutes=5)
    assert not CALLS.same([a, b], [b, a])
    loose = Calls([SetTimer, OpenApp], ordered=False)
    assert loose.same([a, b], [b, a])
    assert not loose.same([a, a], [a, b])
    assert CALLS.tally([b, a], [a, b]) == {"exact": (0.0, 1.0), "name": (0.0, 1.0), "argument_f1": (4.0, 4.0)}
    assert loose.tally([b, a], [a, b]) == {"exact": (1.0, 1.0), "name": (1.0, 1.0), "argument_f1": (4.0, 4.0)}


def test_slots_and_replacing() -> None:
    value = [call("set_timer", minutes=5, label="tea"), call("open_app", app="maps", mode="full")]
    assert CALLS.slots(value) == [
        Slot((0, "arguments", "minutes"), "set_timer.minutes", 5, "number"),
        Slot((0, "arguments", "label"), "set_timer.label", "tea", "text"),
        Slot((1, "arguments", "app"), "open_app.app", "maps", "text"),
        Slot((1, "arguments", "mode"), "open_app.mode", "full", "choice"),
    ]
    changed = CALLS.replace(value, (1, "arguments", "app"), "chess")
    assert changed[1] == call("open_app", app="chess", mode="full")
    assert value[1]["arguments"]["app"] == "maps", "the old one is left as it was"


def test_joining_and_groups() -> None:
    a, b = [call("open_app", app="maps")], [call("set_timer", minutes=5)]
    assert CALLS.join(a, b) == a + b
    assert CALLS.join(a, []) is None
    assert CALLS.join(a + b, b + a) is None, "more than three"
    assert (CALLS.group(a + b), CALLS.group([])) == ("open_app", "none")
    assert CALLS.scored_chars(a) == (0, None)


def test_the_schema_says_what_the_parser_takes() -> None:
    schema = CALLS.schema()
    assert schema["maxItems"] == 3
    by_name = {option["properties"]["name"]["const"]: option for option in schema["items"]["anyOf"]}
    timer = by_name["set_timer"]["properties"]["arguments"]
    assert timer["required"] == ["minutes"]
    assert timer["additionalProperties"] is False
    assert timer["properties"] == {
        "minutes": {"maximum": 1440, "minimum": 1, "type": "integer"}, "label": {"type": "string"}
    }  # fmt: skip


@given(st.text(max_size=30), st.integers(1, 1440), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back(label: str, minutes: int, two: bool) -> None:
    calls = [call("set_timer", minutes=minutes, label=label), *([call("open_app", app=label)] if two else [])]
    value = CALLS.canonical(calls)
    assert CALLS.parse(CALLS.dump(value)) == value
    assert CALLS.same(value, calls)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_whatever_json_comes_it_is_an_answer_or_a_parse_error(value: Any) -> None:
    for output in (CALLS, RECORD):
        for wrapped in (value, [value], [{"name": value, "arguments": value}], {"queue": value, "summary": value}):
            try:
                output.canonical(wrapped)
            except ParseError as error:
                assert error.stage == "schema"


# --- records ---


def test_a_record_is_written_with_what_is_scored_first() -> None:
    value = RECORD.parse('{"summary": "s", "order_number": null, "queue": "billing", "items": "2"}')
    assert RECORD.dump(value) == '{"queue":"billing","order_number":null,"items":2,"summary":"s"}'
    start, stop = RECORD.scored_chars(value)
    assert start == 0 and RECORD.dump(value)[:stop] == '{"queue":"billing","order_number":null,"items":2'
    assert Record(Ticket).scored_chars(value) == (0, None)
    assert RECORD.schema()["required"] == ["queue", "order_number", "items", "summary"]


def test_a_rationale_is_written_first_and_not_scored() -> None:
    output = Record(Ticket, rationale=["order_number"], ignore=["summary"], group_by="items")
    value = output.parse('{"summary": "s", "order_number": "1 + 1", "queue": "billing", "items": 12}')
    text = output.dump(value)
    assert text == '{"order_number":"1 + 1","queue":"billing","items":12,"summary":"s"}'
    start, stop = output.scored_chars(value)
    assert text[start:stop] == ',"queue":"billing","items":12'
    assert output.same(value, {**value, "order_number": None}) and not output.same(value, {**value, "items": 1})
    assert output.tally({**value, "order_number": None}, value) == {"exact": (1.0, 1.0), "field_accuracy": (2.0, 2.0)}
    assert (output.group(value), Record(Ticket, group_by="order_number").group(value)) == ("2 digits", "1 + 1")
    assert output.schema()["required"] == list(value)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("[]", "not a record"),
        ('{"queue": "billing"}', "summary: Field required"),
        ('{"queue": "sales", "summary": "s", "order_number": null}', "queue: Input should be"),
        ('{"queue": "billing", "summary": "s", "order_number": null, "mood": 1}', "no field is called 'mood'"),
        ('{"queue": "billing", "summary": "s", "order_number": 7}', "order_number: Input should be a valid string"),
    ],
)
def test_what_is_no_record_and_why(said: str, reason: str) -> None:
    with pytest.raises(ParseError) as caught:
        RECORD.parse(said)
    assert reason in str(caught.value)


def test_records_that_are_the_same() -> None:
    a = RECORD.canonical({"summary": "x", "queue": "billing", "order_number": "AB-1"})
    b = RECORD.canonical({"summary": "other", "queue": "billing", "order_number": "ab-1", "items": 1.0})
    assert RECORD.same(a, b)
    assert not RECORD.same(a, {**b, "order_number": None})
    assert RECORD.group(a) == "billing"
    assert RECORD.join(a, b) is None
    assert [slot.name for slot in RECORD.slots(a)] == ["queue", "order_number", "items"]
    assert [slot.kind for slot in RECORD.slots(a)] == ["choice", "text", "number"]
    assert RECORD.replace(a, ("queue",), "delivery")["queue"] == "delivery"


def test_a_record_is_told_in_lines() -> None:
    assert RECORD.describe().splitlines() == [
        "summary: text", "queue: billing|delivery  What has to be done.", "order_number: text or null",
        "items: whole number",
    ]  # fmt: skip


def test_folding() -> None:
    assert fold({"A b": ["  Ä\t\nx ", 1, None, True]}) == {"A b": ["ä x", 1, None, True]}
    assert fold("ﬁ") == "fi"
