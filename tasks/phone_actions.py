"""Function calling: what people say to their phone -> the calls it asks for.

"wake me at 6:30 tomorrow and no calls till then"
[{"name":"set_alarm","arguments":{"time":"6:30","days":"tomorrow"}},
 {"name":"toggle_setting","arguments":{"setting":"do_not_disturb","on":true}}]
"""

import re
from typing import Literal

from pydantic import BaseModel, Field
from workbench.validators import (
    apart,
    asked,
    cued,
    equivalent,
    grounded,
    minutes,
    parses,
    percent,
    schema,
    vote,
)  # fmt: skip

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

TRAILING = ("please", "pls", "plz", "thanks", "thank you", "now", "will you", "would you", "for me", "on the line")

# A call or a choice that none of these words asks for was made up.
WORDS = {
    "set_timer": r"ti(m|e).?r|count|min|hour|hr\b|clock|time me|pomodoro|\d ?m\b",
    "set_alarm": r"al(ar|ra)m|wak(e|ing)|\bup\b|rise|rouse|out of bed|sleep|(ring|buzz|call) me",
    "send_message": r"te?xt|me?ss?a?g|tell|ask|let .+ know|send|writ|repl|whatsapp|mail|ping|inform|drop .+ line|sa(y|id)"
    r"|sms|pass |word to|answer|shout|update|warn|than?k|wish|congrat|invite|\bdm\b|check with|find out|line to|heads|note",
    "get_weather": r"weath|forecast|rain|\bsun|snow|\bhot|cold|warm|temp|umbrella|brolly|wind|jacket|coat|jumper|degree|storm"
    r"|\bdry|\bwet|cloud|\bfog|fr[eo][ez]|frost|sky|chill|humid|heat|pour|drizzl|\bic[ey]|boil|shorts|ski|thunder|mild|mugg"
    r"|bak(e|ing)|roast|shower|layers|gloves|climate|hail|sleet|breez|gale|tide|outside|bring the washing|boots|wear",
    "get_directions.mode=walking": r"walk|foot|stroll|hik|stride|wander",
    "get_directions.mode=driving": r"driv|\bcar\b|\bvan\b|truck|taxi|lorry|\bcab\b|wheel|motorway",
    "get_directions.mode=cycling": r"bik|cycl|pedal|\bride|riding",
    "get_directions.mode=transit": r"\bbus|train|tram|metro|subway|\btube|transit|ferry|underground|\brail|coach|boat",
    "toggle_setting.setting=wifi": r"wi-?fi|wireless|internet|network",
    "toggle_setting.setting=bluetooth": r"blu?e? ?tooth|\bbt\b|head(set|phones)|ear(buds|phones)|hearing aid",
    "toggle_setting.setting=flashlight": r"torch|flash|light|lamp|dark|beam",
    "toggle_setting.setting=airplane_mode": r"plane|flight|flying",
    "toggle_setting.setting=do_not_disturb": r"disturb|dnd|interrupt|peace|bother|ping|notif|buzz|call|quiet|through",
    "toggle_setting.setting=location": r"location|gps|where i am|position|track",
}  # fmt: skip

# Who says this asks for that call, whatever else is said.
CLOCK = r"(\d|half|quarter|noon|midnight|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
SWITCH = r"(wi-?fi|bluetooth|torch|flashlight|gps|do not disturb|airplane mode|flight mode)"
ASKS = {
    "set_timer": r"\btimer\b.*\d|\d.*\btimer\b|\bcount ?down\b.*(\d|minute|hour)",
    "set_alarm": rf"\bwake me (up )?(at|by)\b|\balarm (for |at )?{CLOCK}",
    "create_reminder": r"\bremind me (to|about|that|of)\b|\breminder (to|about|for|that)\b",
    "get_weather": r"\bweather\b (like |for |in |on |at |this |tomorrow|today|tonight)|^weather\b|\bforecast (for|in)"
    r"|(need|take) (an umbrella|a brolly|a coat|a jacket)|\b(umbrella|brolly)\b.*\?|how (hot|cold|warm|windy)"
    r"|(going to|gonna|will it) (rain|snow)|is it (still )?(raining|snowing)",
    "get_directions": r"how (do|can|would|should) (i|we) (get|walk|drive|bike|cycle) (to|from)|\bdirections to"
    r"|(quickest|fastest|best|shortest|the) (route|way) to\b|take me to\b|navigate to \w|(walk|drive) me to"
    r"|which (bus|train|tram) (goes|to|for|gets)",
    "call_contact": r"\bgive (\w+ ){1,4}a (call|ring|bell|buzz)\b|\b(get|put) (\w+ ){1,4}on the (line|phone)\b"
    r"|^(please )?(ring|phone|call) ",
    "set_volume": r"\bvolume (up |down )?(to|at) \w|\bvolume \d|^mute\b|\band mute\b",
    "toggle_setting": rf"\b{SWITCH} (on|off)\b|\b(on|off|enable|disable) (the |my )?{SWITCH}",
    "create_event": r"\b(in|to|on) (my|the) (calendar|diary|schedule)\b|\bin (the )?cal$",
    "send_message": r"^(please )?(text|msg|message|tell) (?!me\b|us\b|my\b)\w+ \w+ \w",
    "play_music": r"\b(play|put on|stick on|shuffle) (some|me)\b",
}

# Where a wish ends and the next one begins.
NEXT_WISH = (
    r"\bremind me\b|(?:\b(?:and|then|also|plus|oh|n)\b|[,.;!&])\s+"
    r"(?:(?:then|also|please|maybe|can you|could you|just|oh|and) )*"
    r"(?:open|play|call|ring|phone|text|message|tell|ask|let (?!me)|set|remind|book|schedule|wake|turn|switch|mute|navigate"
    r"|start|launch|put (?:on|a|the|it)|take me|how do i|what'?s|is it|do i need|get me|directions|give \w+ a|crank|volume"
    r"|silence|show)\b"
)


def body_said(value: object, text: str) -> bool:
    """A message's body stands in the request, whatever word it begins with, but not at the head of it, and no `if` is lost."""
    body = " ".join(str(value).casefold().split())
    found = re.finditer(rf"(?<!\w){re.escape(body)}(?!\w)", text) if body else ()
    return any(match.start() > 0 and not re.search(r"\b(if|whether) $", text[: match.start()]) for match in found)


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
                trailing=TRAILING,
            ),
            cued(WORDS),
            asked(ASKS),
            apart(NEXT_WISH),
            equivalent(),
            vote(1, 1, when=lambda calls: not calls),  # a teacher that is at a loss says `[]` too
        ],
        sources=("seed", "recombine", "corpus", "inverse"),
        profiles={"full": {"sample": {"max_minutes": 18.0}, "train": {"max_minutes": 15.0}}},  # its evaluation is short
        lets_by=40.0,
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
            reject({"text": "lock the van"}, '[{"name":"toggle_setting","arguments":{"setting":"wifi","on":true}}]', by="cued"),
            reject({"text": "weather for oslo"}, "[]", by="asked"),
            reject(
                {"text": "tell jo i'm late and play abba"},
                '[{"name":"send_message","arguments":{"contact":"jo","body":"i\'m late and play abba"}}]',
                by="apart",
            ),
            reject({"text": "play abba"}, '[{"name":"play_music","arguments":{"query":"queen"}}]', by="grounded"),
        ],
    )  # fmt: skip
