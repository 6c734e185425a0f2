"""A task as its author writes it: one typed file, a data folder, and no word of machine learning.

    @task(version=1)
    def phone_actions() -> Task:
        '''Turn one spoken request into the phone functions it asks for.'''
        return Task(prompt=Prompt(...), data=Data.folder(...), validators=[...], sources=[...], probes=[...])

The decorated function is called once, when the task is loaded. Its name is the task's name, its docstring the title.
"""

import inspect
import json
import re
import string
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, overload, runtime_checkable

from pydantic import BaseModel
from typing_extensions import TypeIs

from workbench import declared, jsonl
from workbench.digest import digest
from workbench.errors import DataError, TaskError
from workbench.outputs import Output
from workbench.types import Check, Example, Judged, Split

Source = Literal["seed", "forward", "inverse", "recombine", "corpus"]
ASKING: frozenset[Source] = frozenset({"forward", "inverse", "corpus"})  # of these, those that ask a teacher
Percent = Annotated[float, lambda value: 0 <= value <= 100]


@dataclass(frozen=True)
class Prompt:
    """What goes in and what comes out. `student` is the student's whole prompt, a format string over the input's fields."""

    input: type[BaseModel]
    output: Output
    instructions: Annotated[str, str.strip]
    student: str = "{text}"

    def __post_init__(self) -> None:
        """Raises TaskError where the input's first field is no text, or `student` asks for a field that it does not have, or
        for none."""
        declared.check(self)
        first = next(iter(self.input.model_fields.items()), None)
        if first is None or first[1].annotation is not str:
            raise TaskError(
                f"the first field of {self.input.__name__} is not `str`",
                "put what a person writes first; the other fields are given beside it",
            )
        unknown = [name for name in self.named if name not in self.input.model_fields]
        fields = ", ".join(self.input.model_fields)
        if unknown:
            raise TaskError(f"student={self.student!r}: the input has no field {unknown[0]!r}, it has {fields}")
        if not self.named:
            raise TaskError(
                f"student={self.student!r} shows nothing of the input", f"name fields of it in braces: {fields}"
            )

    @cached_property
    def named(self) -> list[str]:
        """The fields of the input that `student` names. Raises TaskError where it is no format string."""
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.student) if name is not None]
        except ValueError as error:
            raise TaskError(
                f"student={self.student!r} is no format string: {error}", "write {{ and }} for braces"
            ) from None
        return [re.split(r"[.\[]", name)[0] for name in names]


@dataclass(frozen=True)
class Data:
    """Three JSONL files in one folder; a fourth, `corpus`, for tasks with that source: inputs without a target; and where there
    is a fifth, `checked`: answers (`input`, `text`) that a person found `right` or not, for the validators to stand trial on.

    `read` turns a raw row into `{"input": ..., "target": ...}` (default: as it is).
    """

    root: Path
    read: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    files: Annotated[Mapping[Split, str], {"seed", "dev", "test"}.issubset] = field(
        default_factory=lambda: {"seed": "seeds.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}
    )
    corpus: str = "corpus.jsonl"
    checked: str = "checked.jsonl"

    def __post_init__(self) -> None:
        declared.check(self)

    @classmethod
    def folder(cls, path: str | Path, read: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> "Data":
        """A folder beside the task file (relative paths) or anywhere (absolute ones)."""
        declared.expect("Data.folder", path, str | Path, 'Data.folder("data")')
        root = Path(path)
        if not root.is_absolute():
            root = Path(inspect.stack()[1].filename).resolve().parent / root
        return cls(root, read)


@runtime_checkable
class Validator(Protocol):
    """Says `pass`, `fail` or raises. Raising is the validator's own fault and is counted apart. One that takes its time, say
    because it executes something, has `heavy = True`: it judges after those that have not, and while a
    teacher is asked in other processes. `files`, where there are some, are those that its judgement rests on. One that has
    `unmatched(task)` tells there, in a sentence each, which of its rules are for what no answer of the task has."""

    @property
    def name(self) -> str: ...

    def judge(self, judged: Judged, task: "Task") -> Check: ...


class SecondLook(Protocol):
    """What a dear validator may ask of the teacher."""

    async def label(self, example: Example, k: int) -> str:
        """The teacher's own answer for this input, drawn anew for each `k`; k = 0 is its most likely one."""


@runtime_checkable
class DearValidator(Protocol):
    """A validator that asks the teacher. It is put to work only on what the cheap ones let through."""

    @property
    def name(self) -> str: ...

    async def judge_with(self, judged: Judged, task: "Task", look: SecondLook) -> Check: ...


@dataclass(frozen=True)
class Probe:
    """A case that the validators must get right, tried without a model. `by` names the validator that must refuse it."""

    input: dict[str, Any]
    text: str
    by: str | None = None

    def __post_init__(self) -> None:
        declared.check(self)


def accept(input: dict[str, Any], text: str) -> Probe:
    """This answer to this input must pass all cheap validators."""
    return Probe(input, text)


def reject(input: dict[str, Any], text: str, *, by: str) -> Probe:
    """This answer to this input must be refused by the validator named."""
    return Probe(input, text, by)


@dataclass(frozen=True)
class Task:
    """One narrow job. A teacher whose exact match on dev is below `floor` percent is refused; so are cheap validators that
    together let through more than `lets_by` percent of the wrong answers in the checked sample.

    `styles`: manners in which inputs are written, one of them half of the time; of several knobs each is turned so:
    `{"voice": ["polite", "curt"], "noise": ["a typo or two"], "language": ["with a word of French"]}`.
    `profiles`: by a profile's name, the settings that this task needs otherwise: `{"full": {"sample": {"max_minutes": 18}}}`.
    """

    prompt: Prompt
    data: Data
    validators: Sequence[Validator | DearValidator]
    sources: Sequence[Source] = ("seed", "recombine", "inverse")
    probes: Sequence[Probe] = ()
    styles: Sequence[str] | Mapping[str, Annotated[Sequence[str], len]] = ()
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    floor: Percent = 0.0
    lets_by: Percent = 100.0
    name: str = ""
    title: str = ""
    version: int = 1
    file: Path = Path()
    module: str = ""  # its file's name to Python, where it is of a package

    def __post_init__(self) -> None:
        declared.check(self)

    @property
    def output(self) -> Output:
        return self.prompt.output

    @property
    def written(self) -> str:
        """The field of the input that a person writes: the first. The others, a database's schema say, are given beside it."""
        return next(iter(self.prompt.input.model_fields))

    def given(self, input: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in input.items() if name != self.written}

    @cached_property
    def cheap(self) -> list[Validator]:
        """Those that cost no call, the heavy ones last."""
        return sorted((validator for validator in self.validators if not _asks(validator)), key=heavy)

    @cached_property
    def dear(self) -> list[DearValidator]:
        return [validator for validator in self.validators if _asks(validator)]

    def student_prompt(self, input: Mapping[str, Any]) -> str:
        """Raises DataError where the input cannot be put into it."""
        try:
            return self.prompt.student.format(**input)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"student={self.prompt.student!r} cannot be filled in: {error}", f"the input is {dict(input)}"
            ) from None

    def example(self, input: Any, *, split: Split, target: Any = None, source: str = "human") -> Example:
        """An example from a raw input. Its id is the digest of the input. Raises ValidationError, ParseError."""
        value = self.prompt.input.model_validate(input).model_dump(mode="json")
        canonical = None if target is None else self.output.canonical(target)
        return Example(id=digest(value)[:16], input=value, target=canonical, split=split, source=source)

    def examples(self, split: Split) -> list[Example]:
        """The human rows of one split, the first of those with one input. Raises DataError with file and row."""
        first: dict[str, Example] = {}
        for example in self.rows(split):
            first.setdefault(example.id, example)
        return list(first.values())

    def rows(self, split: Split) -> list[Example]:
        """The human rows of one split as they stand in its file. Raises DataError with file and row."""

        def made(row: dict[str, Any]) -> Example:
            if row["target"] is None:
                raise TypeError("'target' is null")
            return _grouped(self.example(row["input"], split=split, target=row["target"]), row)

        return [example for _, example in self._parsed(self.data.files[split], made, "`input` and `target`")]

    def corpus(self) -> "Corpus":
        """The author's own inputs that nobody has answered. Raises DataError with file and row."""

        def made(row: dict[str, Any]) -> Example:
            return _grouped(self.example(row["input"], split="new", source="corpus"), row)

        seen: set[bytes] = set()
        places = array("Q")
        for place, example in self._parsed(self.data.corpus, made, "`input`"):
            name = bytes.fromhex(example.id)
            if name not in seen:
                seen.add(name)
                places.append(place)
        return Corpus(self.data.root / self.data.corpus, places, lambda raw: made(self._raw(raw)))

    def checked(self) -> list[tuple[Example, str, bool]]:
        """Inputs, answers to them as a teacher gave them, and whether a person found them right. Raises DataError with file
        and row; empty where there is no such file."""
        path = self.data.root / self.data.checked
        if not path.is_file():
            return []

        def made(row: dict[str, Any]) -> tuple[Example, str, bool]:
            example, text, right = self.example(row["input"], split="new"), row["text"], row["right"]
            if not isinstance(text, str) or not isinstance(right, bool):
                raise TypeError("`text` is to be text, `right` true or false")
            return example, text, right

        return [found for _, found in jsonl.read(path, made, "a row has `input`, `text` and `right`")]

    def _parsed(
        self, name: str, made: Callable[[dict[str, Any]], Example], holds: str
    ) -> Iterator[tuple[int, Example]]:
        """Each line's place in the file in bytes, and its example."""
        path, empty = self.data.root / name, True
        for found in jsonl.read(path, lambda row: made(self._raw(row)), "mend the row, or the schema in the task file"):
            empty = False
            yield found
        if empty:
            raise DataError(f"{path} holds no rows", f"each line is one JSON object with {holds}")

    def _raw(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.data.read(row) if self.data.read else row


def _grouped(example: Example, row: Mapping[str, Any]) -> Example:
    """With the group that the row names. Raises TypeError."""
    group = row.get("group") or ""
    if not isinstance(group, str):
        raise TypeError("'group' is to be text")
    return example.model_copy(update={"group": group}) if group else example


class Corpus(Sequence[Example]):
    """Inputs in a file, each read when it is asked for: a million of them take eight bytes each."""

    def __init__(self, path: Path, places: Sequence[int], made: Callable[[dict[str, Any]], Example]) -> None:
        """`places` are where the lines begin, in bytes."""
        self.path, self.places, self.made = path, places, made

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        with self.path.open("rb") as handle:
            handle.seek(self.places[at])
            return self.made(json.loads(handle.readline()))


TaskFactory = Callable[[], Task]


def task(version: int = 1) -> Callable[[TaskFactory], TaskFactory]:
    """Marks the function that makes a task. Raise `version` when old runs must not be mixed with new ones."""

    declared.expect("@task(version)", version, int, "@task() or @task(version=1) above the function")

    def mark(factory: TaskFactory) -> TaskFactory:
        if not (factory.__doc__ or "").strip():
            raise TaskError(f"task {factory.__name__} has no docstring", "say in one line what the task does")
        factory.__workbench_task__ = version  # type: ignore[attr-defined]
        return factory

    return mark


def heavy(validator: Validator) -> bool:
    return bool(getattr(validator, "heavy", False))


def _asks(validator: Validator | DearValidator) -> TypeIs[DearValidator]:
    return hasattr(validator, "judge_with")
