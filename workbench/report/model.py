"""What a report shows, as frozen data. Scores, shares and intervals are in percent, sizes in bytes, times in seconds.

Everything that a quick run may leave out has an empty default, so that a report without quants, curves or a teacher is
still a report; `caveats` says in words what was left out.
"""

from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from workbench.types import Frozen


class Score(Frozen):
    """One metric in percent with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Entrant(Frozen):
    """One row of the score table. `key` is `base`, `teacher`, `merged` or the name of a quant."""

    key: str
    label: str
    rows: int = Field(ge=0, description="held-out rows that were scored")
    scores: dict[str, Score] = Field(default_factory=dict)
    file_bytes: int | None = None
    prompt_tokens: float | None = Field(default=None, description="mean over the rows")
    seconds: float | None = Field(default=None, description="median for one request alone")
    shipped: bool = False
    note: str = ""


class Versus(Frozen):
    """McNemar's test of the shipped file against the teacher, on the rows that both answered."""

    both_right: int
    only_shipped: int
    only_teacher: int
    both_wrong: int
    p_value: float
    sentence: str


class Step(Frozen):
    """One level of the funnel."""

    label: str
    count: int


class Case(Frozen):
    """One rejected candidate: what was asked, what came back, why it was refused."""

    input: str
    text: str
    reason: str


class Rejection(Frozen):
    """What one validator, or a gate on the way into the shard, refused. `share` is in percent of all judged candidates, or
    of all rows proposed for the shard; `error` is the validator's own crash."""

    validator: str
    count: int
    share: float
    cases: tuple[Case, ...] = ()
    kind: Literal["fail", "error"] = "fail"


class TrainPoint(Frozen):
    step: int
    tokens: int
    loss: float


class DevPoint(Frozen):
    """One checkpoint on the dev split. `chosen` marks the one that was kept."""

    step: int
    exact: float | None = None
    loss: float | None = None
    chosen: bool = False


class Quant(Frozen):
    """One quantized file, with its exact match on dev in percent (None: made, but not scored)."""

    name: str
    bytes: int
    dev_exact: float | None = None
    chosen: bool = False
    note: str = ""


class Mistake(Frozen):
    """One held-out row that the shipped file got wrong. `teacher` is None where no teacher was scored."""

    input: str
    target: str
    shipped: str
    teacher: str | None = None
    teacher_right: bool = False


class Machine(Frozen):
    cpu: str
    cores: int


class Teacher(Frozen):
    """Who labelled the rows, and what that took. `shots` is the mode in which examples were shown to it, `terms` what holds
    for training on its outputs, and who accepted that; `pool` the others, each with its role, and `agreement` how often two
    that voted said the same. Calls and tokens are of all."""

    name: str
    licence: str
    terms: str = ""
    shots: str = ""
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    pool: tuple[str, ...] = ()
    agreement: tuple[str, ...] = ()


class Student(Frozen):
    """What was trained. `hub` is its id on the Hugging Face hub, for the model card; `learned` is what it learned from,
    `merged` which sum of base and adapter was kept."""

    name: str
    licence: str
    hub: str = ""
    learned: str = ""
    merged: str = ""


class Source(Frozen):
    """Training rows that came from one place (`human`, `forward`, `inverse`, `corpus`, `student`, `attempted`)."""

    name: str
    rows: int
    licence: str = ""


class Expert(Frozen):
    """The shipped folder, and an input to try it with. `prompt` is the user message the student reads."""

    path: str
    file: str = "model.gguf"
    grammar: str = Field(default="", description="name of the GBNF file in the folder, empty: none")
    modelfile: str = "Modelfile"
    prompt: str = "Hello"


class Round(Frozen):
    """A round of sampling and training: how many candidates and rows there were by then, and what its file that would ship has
    on dev, in percent."""

    number: int
    candidates: int
    rows: int
    dev_exact: float
    shipped: bool = False


class Report(Frozen):
    """One run, as it is told to people."""

    task: str
    title: str
    created: AwareDatetime
    command: str
    profile: str
    machine: Machine
    versions: dict[str, str] = Field(default_factory=dict)

    metrics: tuple[str, ...] = Field(min_length=1, description="in the order of the columns; the first decides")
    entrants: tuple[Entrant, ...] = ()
    versus: Versus | None = None
    leaks: str = Field(default="", description="the scores without the held-out rows that training might have met")

    funnel: tuple[Step, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    rounds: tuple[Round, ...] = Field(default=(), description="empty where there was one alone")
    train_curve: tuple[TrainPoint, ...] = ()
    dev_curve: tuple[DevPoint, ...] = ()
    quants: tuple[Quant, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    teacher: Teacher | None = None
    student: Student
    sources: tuple[Source, ...] = ()
    caveats: tuple[str, ...] = ()
    expert: Expert | None = None

    @model_validator(mode="after")
    def _one_shipped(self) -> Self:
        if sum(e.shipped for e in self.entrants) > 1:
            raise ValueError("a report marks at most one entrant as shipped")
        keys = [e.key for e in self.entrants]
        if len(keys) != len(set(keys)):
            raise ValueError(f"two entrants share a key: {keys}")
        return self

    def entrant(self, key: str) -> Entrant | None:
        return next((e for e in self.entrants if e.key == key), None)

    @property
    def shipped(self) -> Entrant | None:
        return next((e for e in self.entrants if e.shipped), None)
