"""Function calling: what people say to their phone -> the calls it asks for.

"wake me at 6:30 tomorrow and no calls till then"
[{"name":"set_alarm","arguments":{"time":"6:30","days":"tomorrow"}},
 {"name":"toggle_setting","arguments":{"setting":"do_not_disturb","on":true}}]
"""

from typing import Literal

from pydantic import BaseModel, Field
from workbench.validators import equivalent, grounded, minutes, parses, percent, round_trip, schema

from workbench import Calls, Data, Prompt, Task, accept, reject, task


class Utterance(BaseModel):
    text: str = Field(min_length=1, max_length=400)


class SetTimer(BaseModel):
    """Count down a length of time."""

    minutes: int = Field(ge=1, le=1440)
    label: str | None = None


class SetAlarm(BaseModel):
    """Ring or wake at a clock time."""

    time: str
    days: str | None = None


class CreateEvent(BaseModel):
    """Put an appointment in the calendar."""

    title: str
    when: str
    place: str | None = None


class CreateReminder(BaseModel):
    """Remind of a thing to do."""

    task: str
    when: str | None = None


class SendMessage(BaseModel):
    """Write to a person; body as said."""

    contact: str
    body: str


class CallContact(BaseModel):
    """Phone a person."""

    contact: str


class PlayMusic(BaseModel):
    """Play music, radio or a podcast."""

    query: str
    app: str | None = None


class GetDirections(BaseModel):
    """The way to a place."""

    destination: str
    mode: Literal["driving", "walking", "cycling", "transit"] | None = None


class GetWeather(BaseModel):
    """Weather, rain, temperature."""

    place: str | None = None
    when: str | None = None


class ToggleSetting(BaseModel):
    """Switch a setting of the phone."""

    setting: Literal["wifi", "bluetooth", "flashlight", "airplane_mode", "do_not_disturb", "location"]
    on: bool


class SetVolume(BaseModel):
    """Set the loudness to a named level."""

    percent: int = Field(ge=0, le=100)


class OpenApp(BaseModel):
    """Open an app."""

    app: str


FUNCTIONS = (
    SetTimer, SetAlarm, CreateEvent, CreateReminder, SendMessage, CallContact,
    PlayMusic, GetDirections, GetWeather, ToggleSetting, SetVolume, OpenApp,
)  # fmt: skip

INSTRUCTIONS = """\
Turn what is said to a phone into the calls it asks for: a JSON list of {"name", "arguments"}.
Several wishes give several calls, in the order said. If no function fits, or a needed argument was not said, give [].
Copy text values word for word from the request, the shortest stretch that names the thing, without leading
the, a, my, some, to, at, on, in, for, that, about. Leave out optional arguments (marked ?) that were not said."""

LEADING = ("the", "a", "an", "my", "some", "to", "at", "on", "in", "for", "from", "that", "saying", "about")


def body_said(value: object, text: str) -> bool:
    """A message's body stands in the request, whatever word it begins with."""
    return " ".join(str(value).casefold().split()) in text


@task(version=1)
def phone_actions() -> Task:
    """Turn one spoken request into the phone functions it asks for."""
    return Task(
        prompt=Prompt(input=Utterance, output=Calls(FUNCTIONS), instructions=INSTRUCTIONS, student="{text}"),
        data=Data.folder("data/phone_actions"),
        validators=[
            parses(),
            schema(),
            grounded(
                {"set_timer.minutes": minutes, "set_volume.percent": percent, "send_message.body": body_said},
                leading=LEADING,
            ),
            equivalent(),
            round_trip(when=lambda calls: not calls),
        ],
        sources=("seed", "recombine", "corpus", "inverse"),
        styles=("short, a few words", "lower case, no punctuation", "polite, whole sentence", "casual, with slang",
                "with a typing error", "rambling, with a reason before the wish", "indirect"),
        probes=[
            accept({"text": "timer ten minutes"}, '[{"name":"set_timer","arguments":{"minutes":10}}]'),
            accept({"text": "half volume"}, '[{"name":"set_volume","arguments":{"percent":50}}]'),
            accept({"text": "tell me a joke"}, "[]"),
            reject({"text": "open maps"}, 'Sure! [{"name":"open_app","arguments":{"app":"maps"}}]', by="parses"),
            reject({"text": "open maps"}, '[{"name":"open_app","arguments":{"name":"maps"}}]', by="schema"),
            reject({"text": "timer ten minutes"}, '[{"name":"set_timer","arguments":{"minutes":15}}]', by="grounded"),
            reject({"text": "call my mum"}, '[{"name":"call_contact","arguments":{"contact":"my mum"}}]', by="grounded"),
            reject({"text": "play abba"}, '[{"name":"play_music","arguments":{"query":"queen"}}]', by="grounded"),
        ],
    )  # fmt: skip
