"""The words of the workbench as frozen data: what walks from stage to stage. Standard library and pydantic only."""

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Split = Literal["seed", "dev", "test", "new"]
SPLITS: tuple[Split, ...] = ("seed", "dev", "test")  # that people wrote
Outcome = Literal["pass", "fail", "error"]
Role = Literal["system", "user", "assistant"]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Frozen):
    role: Role
    content: str


class Example(Frozen):
    """One input of a task. `target` is the JSON value of the right output where it is known (human rows). `group`: what it
    comes from with others (a customer, a conversation), all in one split; none where the author names none."""

    id: str
    input: dict[str, Any]
    target: Any = None
    split: Split
    source: str = "human"
    group: str = ""


class Usage(Frozen):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Request(Frozen):
    """One question to a teacher. `k` tells repeats of the same question apart; it is part of the ledger's key."""

    messages: tuple[Message, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    k: int = 0
    json_schema: dict[str, Any] | None = None
    top_logprobs: int = 0  # so many of the likeliest tokens are to be told at each place of the answer
    purpose: str = ""  # "label", "write", ...; told in the ledger, outside of the key


class TokenLogprobs(Frozen):
    """A token of a reply, and the likeliest at its place with their log-probabilities in nats, descending. Tokens are bytes,
    each as the character of its number (latin-1)."""

    token: str
    top: tuple[tuple[str, float], ...]


class Reply(Frozen):
    """What a teacher answered. `finish` is `stop`, `length` or `refused`; `logprob` the mean log-probability of a token that
    it wrote, in nats, where the runtime tells it; `top_logprobs` what was asked for of each."""

    text: str
    finish: str = "stop"
    usage: Usage = Usage()
    seconds: float = 0.0
    logprob: float | None = None
    top_logprobs: tuple[TokenLogprobs, ...] = ()


class Check(Frozen):
    """What one validator said. `reason` is a sentence a person can read."""

    validator: str
    outcome: Outcome
    reason: str = ""


class Verdict(Frozen):
    """`fail` is the candidate's fault, `error` is a validator's own crash; the first that is not `pass` ends the row."""

    outcome: Outcome
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        return next((f"{c.validator}: {c.reason}" for c in self.checks if c.outcome != "pass"), "")


class Candidate(Frozen):
    """One teacher completion for one example."""

    example: Example
    text: str
    call: str  # the ledger key of the teacher call that it came from
    source: str
    logprob: float | None = None  # of the teacher's own answer; None where it was told the answer, and wrote the input


class Judgement(Frozen):
    """One line of candidates.jsonl: a candidate, what the validators said of it, and whose it is."""

    candidate: Candidate
    verdict: Verdict
    teacher: str
    licence: str


class Row(Frozen):
    """One row of the shard: what the student reads, what it shall write, and where that came from."""

    id: str
    input: dict[str, Any]
    prompt: str
    completion: str
    source: str
    aside: str = ""  # what is learned beside it, behind a prompt of its own
    call: str = ""
    teacher: str = ""
    licence: str = ""
    verdict: Verdict | None = None


class Judged(NamedTuple):
    """What a validator sees: the example, the raw text of the candidate, its parsed value (None before it parsed)."""

    example: Example
    text: str
    value: Any
