"""Extraction and routing: a customer's message -> a typed record for the desk that has to act.

"Unpacked the coffee maker, glass jug in a thousand pieces. I'd like a new one. 7130055 is the order."
{"queue":"returns","urgency":"normal","product":"coffee maker","order_number":"7130055","summary":"..."}
"""

import re
from typing import Literal

from pydantic import BaseModel, Field
from workbench.validators import asked, cued, equivalent, grounded, parses, schema, simple

from workbench import Data, Judged, Prompt, Record, Task, accept, reject, task


class Mail(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


class Ticket(BaseModel):
    queue: Literal["billing", "delivery", "returns", "technical", "account", "sales"] = Field(
        description="What has to be done"
    )
    urgency: Literal["low", "normal", "high"]
    product: str | None = Field(description="Words copied from the message")
    order_number: str | None = Field(description="Copied from the message")
    summary: str = Field(max_length=160, description="One line, at most 12 words")


INSTRUCTIONS = """\
Read a customer's message to a mail-order shop and fill in a JSON record.
queue, by what has to be done: billing (money, refunds, invoices, vouchers), delivery (where the parcel is, lost, late,
wrong address), returns (send back, exchange, wrong, broken on arrival or incomplete), technical (has it, does not work or
needs help with setup), account (login, email, data, newsletter), sales (before buying).
urgency: high = danger, money wrongly gone twice, a stranger in the account, or a named deadline within two days;
low = nothing is broken, late or lost and nobody waits; normal = all else. Anger or "asap" alone is not high.
product: the shortest words that name the article, as written, without the, a, my; null if not named.
order_number: as written, without # or no.; not invoice, tracking or phone numbers; null if none."""

# Danger, money gone twice, a stranger in the account, a deadline: what says none of them is not urgent.
URGENT = (
    r"smok|shock|spark|fire|flame|burn|leak|\bgas|injur|blood|bleed|explo|bang|melt|smell|scorch|swell|swollen|hospital|hurt|danger"
    r"|\bcut\b|collaps|toxic|poison|\bhot\b|tingl|splinter|child|kids|baby|doctor|water"
    r"|twice|double|two times|2 ?x|second|again|once more|both|three times"
    r"|hack|stranger|someone|somebody|not me|wasn't me|never (ordered|bought)|didn't (order|buy|log)|don't know|unknown|who"
    r"|log ?in|didn't|changed|into my|stolen"
    r"|today|tonight|tomorrow|morning|evening|hours|two days|day after|noon|o'clock|until|before|deadline|leave|flight"
    r"|(mon|tues|wednes|thurs|fri|satur|sun)day|weekend"
)

# What a queue needs a word for, where one is sure to stand.
QUEUES = {
    "queue=account": r"account|e-?mail|\bmail|log|password|newsletter|data|profile|sign|user|name|address|\bapp\b"
    r"|subscri|spam|delet|regist|two-factor|code|hack|stranger|someone|somebody|number",
    "queue=delivery": r"parcel|package|deliver|courier|driver|arriv|ship|sent|send|track|where|late|lost|address|neighbo"
    r"|post|locker|pick|\bvan\b|carrier|come|wait|door|\bdhl\b|\bups\b|here|gone|status|today|tomorrow|day|week|get"
    r"|order|men\b|card|mail|appointment|one (rang|came)",
}

# What is said in so many words.
SAID = {
    "urgency=low": r"\b(no (rush|hurry|pressure)|not urgent|isn't urgent|nothing urgent|at your (leisure|convenience)"
    r"|when (you|someone|somebody)('ve)? (have|has|got|find|finds) (a |the )?(free |quiet )?(time|moment|minute)"
    r"|just (curious|wondering|asking)|out of (pure |sheer |mere |idle )?curiosity|nice to (have|know)|quiet day"
    r"|in your own time|take your time|doesn't matter when|merely|purely|nothing('s| is)? (wrong|broken))\b",
    "urgency=high": r"\b(smok(e|es|ing)|spark(s|ing)|on fire|caught fire|electric shock|got a shock|bleeding"
    r"|burn(ed|t) (a|my|his|her)|explod(ed|es)|leaking gas|smell of gas|charged (me )?(twice|three times|double)"
    r"|debited (twice|three times)|twice charged|hacked|(almost|nearly) hit a|day after tomorrow)\b",
    "queue=sales": r"\b(before (i|we) (buy|order|decide)|(do|would) you (sell|stock|carry)|(want|like|think|going) to buy"
    r"|(have|got) .{0,30} in stock|thinking (of|about) buying|i search|looking for a)\b",
    "queue=account": r"\b(unsubscribed?|(forgot|reset) my password|(log ?in to|delete|close) my account|two-factor"
    r"|can't log ?in)\b",
    "queue=returns": r"\b((send|take|have) (it|them|this|these) back|(return|exchange) (it|them|this|these)"
    r"|arrived (with|without|broken|in pieces)|instead of the)\b",
    "queue=technical": r"\bwhat (does|is) the [a-z ]*(light|moon|symbol|icon|lamp|led|display|button)\b",
}

VAGUE = ("order", "parcel", "package", "newsletter", "item", "article", "product", "thing", "account", "invoice", "delivery",
         "it", "box", "setup", "sim", "locker", "display", "stuff", "voucher", "password", "refund", "email", "app", "website",
         "login", "address")  # fmt: skip
OTHER_NUMBERS = (
    r"(invoice|tracking|customer|serial|model|phone|part|article|ticket|voucher|firmware|version|bill)"
    r"( code| id)?( number| no\.?| nr\.?)?:? ?#?$"
)
ORDER = r"(?:#|\border (?:number |no\.? ?|nr\.? ?)?#?)((?=[\w-]*\d\d\d)[a-z\d]+(?:-[a-z\d]+)*)"


def whole_product(judged: Judged) -> str | None:
    """An article, and with its brand or model if they stand next to it."""
    product, text = judged.value["product"], judged.example.input["text"]
    if product is None:
        return None
    if product.casefold() in VAGUE:
        return f"{product!r} names no article"
    before = text[: text.casefold().find(product.casefold())]
    last = re.search(r"(?<=[a-z,] )([A-Z][\w-]+|(?=[\w-]*[A-Za-z])[\w-]*\d[\w-]*) $", before)
    return f"{last.group(1)!r} stands before {product!r}" if last else None


def order_number(judged: Judged) -> str | None:
    """The order's own number, and not left out where it is called so."""
    number, text = judged.value["order_number"], judged.example.input["text"].casefold()
    if number is None:
        called = (m for m in re.finditer(ORDER, text) if not re.search(OTHER_NUMBERS, text[: m.start(1)]))
        return next((f"{found.group(1)!r} is called an order number" for found in called), None)
    if number.startswith("#") or not re.search(r"\d", number):
        return f"{number!r} is no order number"
    found = re.search(OTHER_NUMBERS, text[: text.find(number.casefold())])
    return f"{number!r} is another number: {found.group().strip()!r}" if found else None


@task(version=1)
def support_triage() -> Task:
    """Turn a customer's message into a typed ticket for the right queue."""
    return Task(
        prompt=Prompt(
            input=Mail,
            output=Record(Ticket, ignore=("summary",), group_by="queue"),
            instructions=INSTRUCTIONS,
            student="{text}",
        ),
        data=Data.folder("data/support_triage"),
        validators=[
            parses(),
            schema(),
            grounded(leading=("the", "a", "an", "my", "your", "this", "#", "no.")),
            cued({"urgency=high": URGENT, **QUEUES}),
            asked(SAID),
            simple("whole_product", whole_product),
            simple("order_number", order_number),
            equivalent(),
        ],
        sources=("seed", "recombine", "corpus"),
        styles=("angry", "polite, long", "short, fragments", "chatty, with a story before the matter",
                "not a native speaker", "lower case, typing errors", "matter of fact"),
        probes=[
            accept(
                {"text": "Where is my tent? Order A-1"},
                '{"queue":"delivery","urgency":"normal","product":"tent","order_number":"A-1","summary":"Asks for tent."}',
            ),
            reject({"text": "Where is my tent?"}, "delivery", by="parses"),
            reject(
                {"text": "Where is my tent?"},
                '{"queue":"parcels","urgency":"normal","product":"tent","order_number":null,"summary":""}',
                by="schema",
            ),
            reject(
                {"text": "Where is my tent?"},
                '{"queue":"delivery","urgency":"normal","product":"stove","order_number":null,"summary":""}',
                by="grounded",
            ),
            reject(
                {"text": "Where is my tent?"},
                '{"queue":"delivery","urgency":"normal","product":"my tent","order_number":null,"summary":""}',
                by="grounded",
            ),
            reject(
                {"text": "Where is my tent?"},
                '{"queue":"delivery","urgency":"high","product":"tent","order_number":null,"summary":""}',
                by="cued",
            ),
            reject(
                {"text": "Where is my tent? Take your time"},
                '{"queue":"delivery","urgency":"normal","product":"tent","order_number":null,"summary":""}',
                by="asked",
            ),
            reject(
                {"text": "I want to return the Halden X2 kettle"},
                '{"queue":"returns","urgency":"normal","product":"kettle","order_number":null,"summary":""}',
                by="whole_product",
            ),
            reject(
                {"text": "Where is my tent? Order A-101"},
                '{"queue":"delivery","urgency":"normal","product":"tent","order_number":null,"summary":""}',
                by="order_number",
            ),
            accept(
                {"text": "I was charged twice, invoice #12345"},
                '{"queue":"billing","urgency":"high","product":null,"order_number":null,"summary":""}',
            ),
            reject(
                {"text": "Where is my tent? Tracking 00340"},
                '{"queue":"delivery","urgency":"normal","product":"tent","order_number":"00340","summary":""}',
                by="order_number",
            ),
        ],
    )  # fmt: skip
