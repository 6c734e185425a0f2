"""A task's fields are held against their types when they are declared, and told in plain words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small import TASK as SMALL
from small import write_task
from workbench.validators import asked, cued, grounded, parses, percent

from workbench import Calls, Data, Judged, Prompt, Record, Task, registry
from workbench.declared import nearest
from workbench.errors import TaskError, WorkbenchError
from workbench.judge import judge_cheap
from workbench.types import Example

TASK = SMALL.replace("import Calls,", "import Calls, Record,")
PROBES = TASK[TASK.index("probes=[") : TASK.index("        ],\n    )\n")] + "        ]"
CALLS = "Calls([OpenApp, CallContact, SetTimer])"
VALIDATORS = "[parses(), schema(), grounded(), equivalent(), round_trip()]"
DATA = 'Data.folder("data")'
SOURCES = 'sources=("seed", "recombine", "inverse")'
INSTRUCTIONS = '"Turn what is said into calls."'
PROBE = '\'[{"name":"open_app","arguments":{"app":"maps"}}]\''
VERSION = "@task(version=1)"
MEND = "mend the task file, then `workbench check`"


def loaded(folder: Path, old: str, new: str) -> tuple[str, str]:
    """The error and the hint with which talk.py is refused, after one change."""
    file = write_task(folder)
    assert old in TASK
    file.write_text(TASK.replace(old, new))
    with pytest.raises(TaskError) as caught:
        registry.load(str(file))
    error = str(caught.value)
    assert error.startswith(f"{file}, line "), error
    assert "Error" not in error
    return error.split(": ", 1)[1], caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "says", "write"),
    [
        (VALIDATORS, "[parses, schema()]", "Task.validators[0] is the function parses", "parses(), with parentheses"),
        (VALIDATORS, "[parses(), lambda judged: None]", "Task.validators[1] is a lambda", 'simple("name", function)'),
        (VALIDATORS, '["parses"]', "Task.validators[0] is the text 'parses'", "parses()"),
        (VALIDATORS, "parses()", "Task.validators is a Structure", "in a list"),
        (CALLS, "OpenApp", "Prompt.output is the class OpenApp", "Calls([SwitchLight, ...])"),
        (CALLS, "Calls", "Prompt.output is the class Calls", "Record(Ticket)"),
        ("Prompt(Utterance,", "Prompt(Utterance(text='a'),", "Prompt.input is an Utterance", "the class of the input"),
        (INSTRUCTIONS, "None", "Prompt.instructions is None", "colleague"),
        (INSTRUCTIONS, '" "', "Prompt.instructions is the text ' '", "colleague"),
        (DATA, '"data"', "Task.data is the text 'data'", 'Data.folder("data")'),
        (DATA, 'Data("data")', "Data.root is the text 'data'", 'Data.folder("data")'),
        (DATA, 'Data(__import__("pathlib").Path(), files={"dev": "d"})', "Data.files is a dict", "of each split"),
        (DATA, "Data.folder(None)", "Data.folder is None", 'Data.folder("data")'),
        (PROBE, "[{}]", "Probe.text is a list", "in quotes"),
        ('accept({"text": "open maps"},', 'accept("open maps",', "Probe.input is the text 'open maps'", '{"text": "..."}'),
        (PROBES, "probes=None", "Task.probes is None", "[accept(...), reject(...)]"),
        (SOURCES, "styles='short'", "Task.styles is the text 'short'", "in a list"),
        (SOURCES, "styles={'voice': []}", "Task.styles is a dict", "by knob"),
        (SOURCES, 'profiles={"full": 3}', "Task.profiles['full'] is 3", '{"full": {"sample": '),
        (SOURCES, 'lets_by="40"', "Task.lets_by is the text '40'", "lets_by=40"),
        (SOURCES, "floor=400", "Task.floor is 400", "from 0 to 100"),
        (SOURCES, "floor=True", "Task.floor is True", "from 0 to 100"),
        (SOURCES, 'sources=("seed")', "Task.sources is the text 'seed'", 'sources=("seed",), with a comma'),
        (SOURCES, 'sources=("seed", "corpsu")', "Task.sources[1]: there is no 'corpsu'", "did you mean corpus? known are"),
        (VERSION, '@task("lamp")', "@task(version) is the text 'lamp'", "@task() or @task(version=1)"),
        (VERSION, "@task", "@task(version) is the function talk", "@task() or @task(version=1)"),
        (CALLS, "Calls(OpenApp)", "Calls.functions is the class OpenApp", "Calls([SwitchLight])"),
        (CALLS, "Calls([OpenApp, OpenApp])", "Calls.functions: two functions are called open_app", "a class of its own"),
        (CALLS, "Calls([])", "Calls.functions: there is no function", "a class of its own"),
        (CALLS, 'Record(OpenApp, rationale=("steps",))', "Record.rationale: OpenApp has no field 'steps'", "known are app"),
        (CALLS, 'Record(SetTimer, group_by="minute")', "Record.group_by: SetTimer has no field", "did you mean minutes?"),
        (CALLS, 'Record(OpenApp, ignore="app")', "Record.ignore is the text 'app'", 'ignore=["summary"]'),
        (CALLS, 'Record(OpenApp, ignore=["app"])', "Record: no field of OpenApp is scored", "leave one out"),
        (CALLS, "Record([OpenApp])", "Record.model is a list", "Record(Ticket)"),
        ("grounded()", 'grounded(leading="the my")', "grounded: leading is the text 'the my'", '("the", "my")'),
        (INSTRUCTIONS, f'{INSTRUCTIONS}, student=""', "student='' shows nothing of the input", "in braces: text"),
        (INSTRUCTIONS, f'{INSTRUCTIONS}, student="{{text"', "student='{text' is no format string", "write {{ and }}"),
        ("    text: str = Field(min_length=1, max_length=400)", "    n: int", "the first field of Utterance is not", "first"),
        ('    """Turn one request into calls."""\n', "", "task talk has no docstring", "say in one line"),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_the_field_and_what_to_write(
    tmp_path: Path, old: str, new: str, says: str, write: str
) -> None:
    error, hint = loaded(tmp_path, old, new)
    assert error.startswith(says)
    assert write in hint


def test_a_neighbour_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("x = 1\n")
    file = write_task(tmp_path)
    for name, says in (
        ("helper", "cannot import its neighbours: put what it needs of helper into it"),
        ("hepler", MEND),
    ):
        file.write_text(f"import {name}\n{TASK}")
        with pytest.raises(TaskError, match=f"No module named '{name}'") as caught:
            registry.load(str(file))
        assert says in caught.value.hint


class Own:
    """A validator of no base class, its name a property."""

    def __init__(self, says: Any) -> None:
        self.says = says

    @property
    def name(self) -> str:
        return "own"

    def judge(self, judged: Judged, task: Task) -> Any:
        return self.says


def made(folder: Path, validators: Sequence[Any], prompt: Prompt | None = None) -> Task:
    """talk.py's, with other validators."""
    task = registry.load(str(write_task(folder)))
    return Task(prompt or task.prompt, Data(folder / "data"), validators)


def test_who_answers_with_no_check_has_crashed(tmp_path: Path) -> None:
    row = Example(id="1", input={"text": "hello"}, split="seed")
    verdict = judge_cheap(made(tmp_path, [parses(), Own(True)]), row, "[]")
    assert verdict.outcome == "error"
    assert verdict.reason == "own: TypeError: it is to give a Check, and gave True"


def test_what_fits_is_left_as_it_is(tmp_path: Path) -> None:
    task = made(tmp_path, (Own(None),))
    assert Task(task.prompt, task.data, [*task.validators], ["seed"], floor=40, profiles={"full": {}}).floor == 40
    for found in registry.available():
        assert registry.made(found).name == found.name


def test_rules_for_what_no_answer_has(tmp_path: Path) -> None:
    task = made(tmp_path, [])
    unmatched = grounded({"set_timer.minuts": percent, "set_timer.label": None}).unmatched(task)
    assert unmatched == ["no argument set_timer.minuts; did you mean set_timer.minutes"]
    words = {"open_apps": "x", "call_contact": "x", "set_timer.minutes=5": "x"}
    for validator in (cued(words), asked(words)):
        assert validator.unmatched(task) == ["no label open_apps; did you mean open_app"]
    routed = registry.load("support_triage")
    assert cued({"urgency=hihg": "x", "urgency=low": "x"}).unmatched(routed) == [
        "no label urgency=hihg; did you mean urgency=high"
    ]
    assert grounded({"product": None, "colour": None}).unmatched(routed) == ["no field colour"]


def test_a_function_by_its_class_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no function is called 'OpenApp', did you mean 'open_app'"):
        made(tmp_path, []).output.canonical([{"name": "OpenApp", "arguments": {"app": "maps"}}])
    assert nearest("SEED", ["dev", "seed"]) == "seed"
    assert nearest("qqqq", ["dev", "seed"]) == ""


def test_an_output_of_ones_own_is_one(tmp_path: Path) -> None:
    class Mine(Calls):
        pass

    task = made(tmp_path, [])
    mine = Mine(list(task.output.functions.values())) if isinstance(task.output, Calls) else None
    assert mine is not None
    assert Prompt(task.prompt.input, mine, "Do it.").named == ["text"]
    with pytest.raises(WorkbenchError, match=r"Prompt.output is the class Record"):
        Prompt(task.prompt.input, Record, "Do it.")  # type: ignore[arg-type]
