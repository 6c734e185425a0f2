"""All settings, as frozen models. What a stage is given decides its key; `Runtime` is outside of every key.

Order of precedence: profile, then what the task needs otherwise, then `--config FILE` (TOML), then `--set section.key=value`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from workbench import config_text, methods
from workbench.errors import ConfigError
from workbench.students.settings import DistilConfig, TrainConfig
from workbench.types import Frozen

BATCH_SHARE = 0.5  # of the price, in a batch
DAY = 1440  # minutes
KEY_CHARS = 20  # a name so long, of letters and digits or of small and capital letters, is the key itself
ShotsMode = Literal["auto", "fixed", "nearest", "group", "mixed", "program"]


class TeacherConfig(Frozen):
    """`model` is a catalogue name, a GGUF file, `hf:` and a transformers model, or with `base_url` the name a server knows."""

    model: str = "qwen2.5-coder-1.5b-instruct"  # who is asked
    base_url: str = ""  # of an OpenAI-compatible server; none: it runs here
    key_env: str = "OPENAI_API_KEY"  # the variable's name, which is written down; never the key
    licence: str = ""  # of its outputs, where the catalogue does not know
    price_in: float = Field(0.0, ge=0)  # per million prompt tokens, in the currency of `sample.max_money`
    price_out: float = Field(0.0, ge=0)  # per million written ones
    engine: Literal["auto", "llama.cpp", "torch"] = (
        "auto"  # that a GGUF writes and reads rows in; auto: torch where it is the faster one in batches
    )
    constrained: bool | None = (
        None  # decoding by the JSON schema; None: by a server yes, embedded no (halves its speed)
    )
    max_tokens: int = Field(256, ge=1)  # of an answer
    top_logprobs: int = Field(
        0, ge=0, le=100
    )  # so many of the likeliest tokens are told at each place of an answer, for `--method kd`; OpenAI and vLLM: up to 20
    batch: int = Field(0, ge=0, le=50_000)  # requests in a file of OpenAI's Batch API, at half the price; 0: one by one

    @field_validator("key_env")
    @classmethod
    def _a_name(cls, name: str) -> str:
        mixed = re.search(r"[a-z]", name) and (re.search(r"\d", name) or re.fullmatch(r"(?=.*[A-Z])[A-Za-z]+", name))
        if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) or (len(name) >= KEY_CHARS and mixed):
            raise ValueError("the name of an environment variable is wanted, not the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        if url and not re.fullmatch(r"https?://(\[[\da-fA-F:]+\]|[^/@:\s?#]+)(:\d+)?(/[^\s?#]*)?", url):
            raise ValueError("an address is wanted, as in https://api.openai.com/v1, without a key or a password in it")
        return url

    @property
    def price(self) -> tuple[float, float]:
        """Of a million tokens read and written, as they are asked for."""
        share = BATCH_SHARE if self.batch and self.base_url else 1.0
        return share * self.price_in, share * self.price_out

    @property
    def asks_schema(self) -> bool:
        return bool(self.base_url) if self.constrained is None else self.constrained


class Member(TeacherConfig):
    """A teacher of the pool. It is asked in the place of `teacher` for the wishes of its `sources` and the answers of its
    `groups` (functions, queues: what `workbench coverage` counts), where both are given for those of both. `fallback`: it is
    asked where who was asked first, and the teachers named before it, give no answer. `votes`: it answers each input whose
    candidate passed too; what more than half of all who vote answer is taken. Where anybody votes, `teacher` does too. `reads`:
    where the student learns from distributions, its own are mixed into those of `teacher`, which count 1, with this weight; it
    runs here."""

    sources: tuple[Literal["inverse", "forward", "corpus"], ...] = ()
    groups: tuple[str, ...] = ()
    fallback: bool = False
    votes: bool = False
    reads: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _a_role(self) -> Self:
        if not (self.asked or self.reads):
            raise ValueError("a teacher of the pool wants a role: sources, groups, fallback, votes or reads")
        if self.reads and self.base_url:
            raise ValueError("a teacher that reads runs here, not behind an API")
        if self.batch:
            raise ValueError("a teacher of the pool is asked one by one, not in batches")
        return self

    @property
    def asked(self) -> bool:
        """Whether it answers anything."""
        return bool(self.sources or self.groups or self.fallback or self.votes)

    def is_for(self, source: str, group: str) -> bool:
        """Whether it is asked first. `group` is empty where none is known yet."""
        mine = (not self.sources or source in self.sources) and (not self.groups or group in self.groups)
        return mine and bool(self.sources or self.groups)


class PoolConfig(Frozen):
    """Teachers beside `teacher`, which stays the baseline to beat; of two with the same role the first is asked."""

    teachers: tuple[Member, ...] = ()

    @property
    def asked(self) -> "PoolConfig":
        """Those who answer anything, without what they read."""
        return PoolConfig(
            teachers=tuple(each.model_copy(update={"reads": 0.0}) for each in self.teachers if each.asked)
        )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [(member.model, member.base_url) for member in self.teachers]
        if len(names) != len(set(names)):
            raise ValueError("a teacher stands in the pool twice")
        return self


class ShotsConfig(Frozen):
    """`auto` measures the modes on `rows` dev rows and keeps the best (of a teacher on this machine those whose blocks requests
    share, at least in part); the seed rows are the shots.

    `program`: a `dspy.Predict("request -> answer")` that dspy optimized and saved as JSON. It is one more mode: its
    instructions and demos take the place of the plain ones where they win.
    """

    mode: ShotsMode = "auto"  # which seeds the teacher is shown
    rows: int = Field(40, ge=1)  # of dev that a mode is measured on
    fixed_per_group: int = Field(2, ge=1)  # seeds of each group, the same for all requests
    nearest: int = Field(10, ge=1)  # so many seeds most like the input
    mixed: int = Field(4, ge=1)  # so many seeds most like the input, beside one of each group
    program: str = ""  # a file; tried with the modes auto and program

    @model_validator(mode="after")
    def _a_program(self) -> Self:
        if self.mode == "program" and not self.program:
            raise ValueError("the mode `program` wants shots.program, a file that dspy saved")
        return self


class SampleConfig(Frozen):
    """How much to ask of the teacher. Budgets count every call the shard rests on, paid now or found in the ledger.

    `steer`: of so many answers drawn, an input is asked for the one whose cells (`workbench coverage`) hold least, and inputs
    of a corpus come in that order; 1: any, in a random order.
    """

    inverse: int = Field(600, ge=0)  # answers that an input is written for
    forward: int = Field(0, ge=0)  # inputs that are written first, then answered
    values_per_slot: int = Field(30, ge=0)  # new values that the teacher writes for each argument
    answers_per_group: int = Field(
        40, ge=0
    )  # new answers that the teacher writes, for those with free text that is not scored
    steer: int = Field(1, ge=1)
    candidates: int = Field(2, ge=1)  # at most so many tries for one example
    temperature: float = Field(0.9, ge=0, le=2)  # of whatever is drawn more than once
    max_calls: int = Field(4000, ge=1)  # that the shard rests on
    max_tokens: int = Field(4_000_000, ge=1)  # of these, read and written
    max_money: float = Field(10.0, ge=0)  # by the teacher's prices; what is under way when it is spent comes on top
    max_minutes: float = Field(30.0, gt=0)  # in which calls are under way
    hopeless_after: int = Field(60, ge=1)  # candidates, after which a source that gives too little ends
    hopeless_yield: float = Field(0.05, ge=0, le=1)  # the share that has to pass, else it ends
    seed: int = 0  # of the order of wishes


class RoundsConfig(Frozen):
    """`count`: so many times, at most, rows are sampled and a student is trained; what a round's shipped file gets wrong on dev
    says what the next one asks for, and its training goes on from there. The budgets of sampling and the minutes and
    steps of training are shared out among them. A round that gains nothing on dev ends it, and the one before ships."""

    count: int = Field(1, ge=1, le=10)


class SelectConfig(Frozen):
    """`doubtful`: the share of the teacher's own answers that is left out, those it was least sure of (mean log-probability of
    a token). `empty_margin`: the teacher's empty answer stays where the words of the input, by all other rows, make it likelier
    than any label by this much (label_noise.py); -1: it always stays. `steer`: as in sampling, of the recombined rows.
    `weights`: by a teacher's name, how often each of its rows comes, 1 where none is named; 0.5: half of them."""

    doubtful: float = Field(0.15, ge=0, lt=1)
    empty_margin: float = Field(0.2, ge=-1, le=1)
    recombine: int = Field(1500, ge=0)  # rows made of others, at most
    steer: int = Field(1, ge=1)
    seed_repeats: int = Field(3, ge=1)  # times that each seed stands in the shard
    near_duplicate: float = Field(
        0.9, gt=0, le=0.95
    )  # from this Jaccard similarity of character 4-grams a row stays out
    weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)
    seed: int = 0  # of the draws


class LeaksConfig(Frozen):
    """What is too like a dev or test row: to be shown to a teacher, and to be trained on."""

    letters: float = Field(0.8, gt=0, le=0.95)  # from this Jaccard similarity of character 4-grams
    words: int = Field(8, ge=0)  # in common, one after another; 0: any number


class StudentConfig(Frozen):
    """Who learns."""

    model: str = "smollm2-135m-instruct"  # a model of the catalogue, a GGUF file, a folder or a hub id
    max_tokens: int = Field(128, ge=1)  # of an answer; a file that a quantization broke writes to the end


class ExportConfig(Frozen):
    """The smallest file within `max_drop` points of the unquantized dev score ships, if it is within `max_ratio` of the
    teacher's file size; where none is, the best one within that size. `importance`: each file smaller than Q8_0 is made by an
    importance matrix of the shard's rows, too, and the better of the two on dev is kept."""

    quants: tuple[str, ...] = Field(
        ("Q8_0", "Q4_K_M", "Q4_0"), min_length=1
    )  # files that are made, the unquantized one beside them
    max_drop: float = Field(2.0, ge=0)
    max_ratio: float = Field(0.1, gt=0)
    importance: bool = True


class EvaluateConfig(Frozen):
    """What the last stage measures, once, on the test rows."""

    rows: int = Field(0, ge=0)  # of test; 0: all
    base_rows: int = Field(
        60, ge=0
    )  # of them for the base student: the untrained student is far off: a part of the rows shows it
    timed: int = Field(15, ge=1)  # requests whose seconds are taken
    bootstrap: int = Field(2000, ge=100)  # draws for the intervals


class TeacherLimits(BaseModel, frozen=True, extra="forbid"):
    """Of one teacher; what is none is as for all."""

    concurrency: int | None = Field(None, ge=1)
    requests_a_minute: float | None = Field(None, ge=0)
    tokens_a_minute: float | None = Field(None, ge=0)


class Runtime(BaseModel, frozen=True, extra="forbid"):
    """How, not what: nothing here can change a result, so nothing here is in a key.

    `engine`: who samples and judges, this process or a Ray cluster: the one at `cluster` (an address, or `auto`), else one made
    of this machine's cores; `workers`: 0 for one a core. `hedge_s`: a request to an API that is not answered after so many
    seconds is sent once more, and the first reply counts; both may be billed, so that the tokens of this one call count twice;
    0: never. `per_teacher`: other limits for the teachers of these names.
    """

    engine: Literal["local", "ray"] = "local"
    cluster: str = ""
    workers: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)  # of what runs here; 0: all cores
    launch: str = (
        ""  # of the training: data_parallel, fsdp, or a config of `accelerate launch`; none: this process trains
    )
    slots: int = Field(0, ge=0)  # of a GGUF teacher in llama.cpp; 0: as many as a measurement on this machine says
    concurrency: int = Field(16, ge=1)  # requests under way at an API, at most; fewer while it answers 429
    requests_a_minute: float = Field(0.0, ge=0)  # at an API, at most; 0: any number
    tokens_a_minute: float = Field(0.0, ge=0)  # the same of tokens, read and written
    timeout_s: float = Field(120.0, gt=0)  # of one request
    hedge_s: float = Field(0.0, ge=0)
    attempts: int = Field(5, ge=1)  # of one request, where trying again may help
    batch_poll_s: float = Field(30.0, gt=0)  # between two looks at a batch
    max_money: float = Field(
        10.0, ge=0
    )  # of whoever asks beside the sampling, each: the shots, the score on test, a verb
    per_teacher: dict[str, TeacherLimits] = {}  # in a file, `[runtime.per_teacher."NAME"]` above them

    @model_validator(mode="after")
    def _counted(self) -> Self:
        limited: list[TeacherLimits | Runtime] = [self, *self.per_teacher.values()]
        if self.hedge_s and any(each.requests_a_minute or each.tokens_a_minute for each in limited):
            raise ValueError(
                "hedge_s: what is sent twice is not counted a minute; set no limit a minute, or no hedging"
            )
        return self

    def of(self, teacher: str) -> "Runtime":
        """As it is for the teacher of this name."""
        own = self.per_teacher.get(teacher)
        return self if own is None else self.model_copy(update=own.model_dump(exclude_none=True))

    def shared(self, count: int) -> "Runtime":
        """One of so many equal parts of what may be under way at APIs."""

        def part(each: "TeacherLimits | Runtime") -> dict[str, Any]:
            given = {name: getattr(each, name) for name in TeacherLimits.model_fields}
            return {name: max(1, value // count) if name == "concurrency" else value / count
                    for name, value in given.items() if value is not None}  # fmt: skip

        own = {name: each.model_copy(update=part(each)) for name, each in self.per_teacher.items()}
        return self.model_copy(update={**part(self), "per_teacher": own})


class Config(Frozen):
    profile: str = "quick"
    teacher: TeacherConfig = TeacherConfig()
    pool: PoolConfig = PoolConfig()
    shots: ShotsConfig = ShotsConfig()
    sample: SampleConfig = SampleConfig()
    rounds: RoundsConfig = RoundsConfig()
    leaks: LeaksConfig = LeaksConfig()
    select: SelectConfig = SelectConfig()
    student: StudentConfig = StudentConfig()
    train: TrainConfig = TrainConfig()
    distil: DistilConfig = DistilConfig()
    export: ExportConfig = ExportConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: Runtime = Runtime()

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """All that may be asked, `teacher` first."""
        return (self.teacher, *self.pool.teachers)

    @property
    def readers(self) -> tuple[str, ...]:
        """Models beside `teacher` that read the rows, where the method has them read."""
        assistant = (self.distil.assistant,) if self.distil.assistant else ()
        return (*assistant, *(each.model for each in self.pool.teachers if each.reads))


PROFILES: dict[str, dict[str, Any]] = {
    "quick": {
        "shots": {"mode": "fixed", "fixed_per_group": 1},
        "sample": {"inverse": 160, "values_per_slot": 0, "answers_per_group": 0, "candidates": 1, "max_minutes": 2.0},
        "select": {"recombine": 400},
        "train": {"max_minutes": 2.5, "min_steps": 40, "evals": 2},
        "evaluate": {"rows": 30, "base_rows": 10, "timed": 3},
    },
    "full": {
        "shots": {"rows": 30},
        "sample": {"inverse": 1000, "values_per_slot": 20, "candidates": 1, "max_minutes": 15.0},
        "select": {"recombine": 2000},
        "train": {"max_minutes": 14.5, "epochs": 6.0},
        "evaluate": {"base_rows": 10, "timed": 5},
    },
}


def load_config(
    profile: str = "",
    file: Path | None = None,
    sets: tuple[str, ...] = (),
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    default: str = "quick",
    **sections: dict[str, Any],
) -> Config:
    """Profile, a task's own `profiles`, file and `key=value` settings, merged and checked. Where no profile is named, it is the
    file's, which a run's own config.toml names, else `default`. Raises ConfigError naming what is at fault."""
    read = config_text.toml(file) if file is not None else {}
    typed = [config_text.setting(item) for item in sets]
    if any("profile" in each for each in typed):
        raise ConfigError("--set profile: a profile is many settings, not one", "write --profile quick or full")
    said = str(read.get("profile", ""))
    if said not in ("", *PROFILES):
        raise ConfigError(f"{file}: no profile is called {said!r}", f"profiles: {', '.join(PROFILES)}")
    if profile and said and profile != said:
        raise ConfigError(
            f"{file} has profile = {said!r}, and --profile says {profile!r}",
            "leave --profile out, or take that line out of the file",
        )
    profile = profile or said or default
    for name in (profile, *(profiles or {})):
        if name not in PROFILES:
            raise ConfigError(f"no profile is called {name!r}", f"profiles: {', '.join(PROFILES)}")
    merged: dict[str, Any] = {"profile": profile}
    for each in (PROFILES[profile], (profiles or {}).get(profile, {}), read, *typed, sections):
        config_text.merge(merged, each)
    try:
        config = Config.model_validate(config_text.with_none(merged, Config))
    except ValidationError as error:
        raise config_text.refused(error, Config, file, read, [*typed, sections]) from None
    return checked(config)


def checked(config: Config) -> Config:
    """The config, if its sections go together, with the rounds that its method needs, and the grid of the one file that
    may ship. Raises ConfigError."""
    if (config.teacher.model, config.teacher.base_url) in [
        (each.model, each.base_url) for each in config.pool.teachers
    ]:
        raise ConfigError("pool.teachers: the teacher itself is one of them", "name it once")
    method = methods.named(config.distil.method)
    method.check(config.distil)
    tells = any(each.top_logprobs for each in config.teachers) and method.captures == "rows"
    if method.captures and config.teacher.base_url and not (tells or config.readers):
        own = "; of its own answers it may: --set teacher.top_logprobs=20" if method.captures == "rows" else ""
        raise ConfigError(
            f"{config.teacher.model} is behind an API, which does not tell what it thinks of tokens that it did not write",
            f"learn from its text (--method sft), or take a teacher that runs here: a GGUF, or hf:NAME{own}",
        )
    if config.train.dropout and method.rounded(config.distil):
        raise ConfigError("train.dropout: with rounded weights there is none", "set distil.last_mile=0, or no dropout")
    if config.teacher.batch and config.sample.max_minutes < DAY:
        raise ConfigError("teacher.batch: a batch may take a day", f"allow for it: --set sample.max_minutes={DAY}")
    changes: dict[str, Any] = {
        "rounds": config.rounds.model_copy(update={"count": max(config.rounds.count, method.rounds)})
    }
    if set(config.export.quants) == {"Q8_0"} and "grid" not in config.distil.model_fields_set:
        changes["distil"] = config.distil.model_copy(update={"grid": "Q8_0"})
    return config.model_copy(update=changes)
