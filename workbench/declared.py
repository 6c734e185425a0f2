"""What a task declares, held against the types that it is declared with: one sentence that names the field, one that says
what to write.

A type may carry conditions of its own: `Annotated[str, str.strip]` is a text that is not blank.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from workbench.errors import TaskError

WRITE = {
    "Prompt.input": "the class of the input, a pydantic BaseModel: Prompt(Utterance, Calls([...]), ...)",
    "Prompt.output": "Calls([SwitchLight, ...]) for functions, Record(Ticket) for one record",
    "Prompt.instructions": "what you would tell a colleague who has to do the job by hand",
    "Prompt.student": 'a format string over the fields of the input: student="{text}"',
    "Data.root": 'Data.folder("data"), which finds the folder beside the task file',
    "Data.read": "the name of a function that takes a row and gives one, without parentheses",
    "Data.files": 'the file of each split: {"seed": "seeds.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}',
    "Probe.input": 'the input as in a row: accept({"text": "..."}, ...)',
    "Probe.text": "the answer as the text that a model would write, in quotes: '[{\"name\": ...}]'",
    "Probe.by": 'the name of the validator that refuses it: by="grounded"',
    "Task.prompt": "Prompt(input, output, instructions)",
    "Task.data": 'Data.folder("data")',
    "Task.validators": 'validators in a list: parses(), with parentheses; of a function of your own simple("name", function)',
    "Task.sources": 'names in a list: sources=("seed",), with a comma, or ["seed"]',
    "Task.probes": "probes in a list: [accept(...), reject(...)]",
    "Task.styles": 'texts in a list: styles=["short", "polite"], or such lists by knob: styles={"voice": ["polite", "curt"]}',
    "Task.profiles": 'a profile\'s sections and their settings: {"full": {"sample": {"max_minutes": 18}}}',
    "Task.floor": "a number from 0 to 100, a percentage: floor=40",
    "Task.lets_by": "a number from 0 to 100, a percentage: lets_by=40",
}


class Misfit(NamedTuple):
    """`value` stands at `at` (of a list, `[2]`), where there should be a `kind`."""

    at: str
    value: object
    kind: Any


def check(declared: Any) -> None:
    """All fields of a dataclass. Raises TaskError that names the first at fault."""
    owner = type(declared)
    for name, kind in get_type_hints(owner, include_extras=True).items():
        place = f"{owner.__name__}.{name}"
        expect(place, getattr(declared, name), kind, WRITE.get(place, f"a value of the type {kind}"))


def expect(place: str, value: object, kind: Any, write: str) -> None:
    """Raises TaskError where the value is not of the kind; `write` says what is."""
    found = next(_misfits("", value, kind), None)
    if found is None:
        return
    options = get_args(found.kind) if get_origin(found.kind) is Literal else ()
    if options and isinstance(found.value, str):
        raise TaskError(f"{place}{found.at}: there is no {found.value!r}", one_of(found.value, options))
    raise TaskError(f"{place}{found.at} is {_shown(found.value)}", f"write {write}")


def one_of(name: str, known: Collection[str]) -> str:
    """A hint: the nearest of the known names, and all of them."""
    near = nearest(name, known)
    return f"{f'did you mean {near}? ' if near else ''}known are {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like this one, letter case apart; empty where none is like it."""
    by_case = {item.casefold(): item for item in known}
    return next((by_case[item] for item in difflib.get_close_matches(name.casefold(), by_case, n=1)), "")


def unknown(word: str, names: Iterable[str], known: Collection[str]) -> list[str]:
    """A sentence for each name that is not known: `no argument dim_light.percnt; did you mean dim_light.percent`."""
    found = [(name, nearest(name, known)) for name in names if name not in known]
    return [f"no {word} {name}" + (f"; did you mean {near}" if near else "") for name, near in found]


def _misfits(at: str, value: object, kind: Any) -> Iterator[Misfit]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = list(_misfits(at, value, arguments[0]))
        yield from found or ([] if all(holds(value) for holds in arguments[1:]) else [Misfit(at, value, kind)])
    elif origin in (Union, UnionType):
        if all(any(_misfits(at, value, option)) for option in arguments):
            yield Misfit(at, value, kind)
    elif not _fits(value, kind, origin, arguments):
        yield Misfit(at, value, kind)
    elif isinstance(value, Mapping):
        for key, item in value.items() if arguments else ():
            yield from _misfits(f"[{key!r}]", key, arguments[0])
            yield from _misfits(f"{at}[{key!r}]", item, arguments[1])
    elif origin is Sequence and isinstance(value, Sequence):
        for number, item in enumerate(value):
            yield from _misfits(f"{at}[{number}]", item, arguments[0])


def _fits(value: object, kind: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    """Without what it holds."""
    if kind is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin is type:
        return isinstance(value, type) and issubclass(value, arguments[0])
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if origin is Callable:
        return callable(value)
    return isinstance(value, origin or kind) and not isinstance(value, type)  # a class has its instances' methods, too


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return "a lambda" if value.__name__ == "<lambda>" else f"the function {value.__name__}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if value is None or isinstance(value, int | float):
        return repr(value)
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
