"""Extraction and routing: a customer's message -> a typed record for the desk that has to act.

"Unpacked the coffee maker, glass jug in a thousand pieces. I'd like a new one. 7130055 is the order."
{"queue":"returns","urgency":"normal","product":"coffee maker","order_number":"7130055","summary":"..."}
"""

from typing import Literal

from pydantic import BaseModel, Field
from workbench.validators import equivalent, grounded, parses, round_trip, schema

from workbench import Data, Prompt, Record, Task, accept, reject, task


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
            equivalent(),
            round_trip(on="group"),
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
        ],
    )  # fmt: skip
