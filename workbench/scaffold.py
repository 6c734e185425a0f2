"""`workbench new NAME`: a task file and a few rows to start from, which pass `workbench check` as they stand.

The example is a light switch with two functions: small enough to read in a minute, and its rows show the three
cases that matter: one wish, two wishes, and a wish that fits no function. Nothing that exists is ever overwritten.
"""

import builtins
import importlib.util
import json
import keyword
import re
from pathlib import Path
from typing import Any

from workbench import registry
from workbench.errors import StoreError, TaskError

TASK = '''\
"""What this task does, with one real example: what goes in, what has to come out.

    "kitchen light on"
    [{"name":"switch_light","arguments":{"room":"kitchen","on":true}}]
"""

from pydantic import BaseModel, Field

from workbench import Calls, Data, Prompt, Task, accept, reject, task
from workbench.validators import equivalent, grounded, parses, percent, schema


# The input: one or more fields.
class Utterance(BaseModel):
    text: str = Field(min_length=1, max_length=400)


# The functions: the class name becomes the function's name (switch_light), the docstring tells what it is for, and the
# fields are its arguments. A field with a default is optional. For extraction, use Record(YourModel) in place of Calls.
class SwitchLight(BaseModel):
    """Switch the light of a room on or off."""

    room: str
    on: bool


class DimLight(BaseModel):
    """Set the light of a room to a level."""

    room: str
    percent: int = Field(ge=0, le=100)


# What you would tell a colleague who has to do the job by hand. A large model reads this; the small one learns it.
INSTRUCTIONS = """\\
Turn what is said to a house into calls, in the order said. If no function fits, give [].
Copy the room word for word, without leading the, my."""


@task(version=1)
def @NAME@() -> Task:
    """Turn one spoken request into light switch calls."""
    return Task(
        # student="{text}" is all that the small model reads: a format string over the input's fields.
        prompt=Prompt(Utterance, Calls([SwitchLight, DimLight]), INSTRUCTIONS, student="{text}"),
        # Rows you are sure of, one JSON object a line: {"input": ..., "target": ...}. seeds.jsonl are examples to learn
        # from, dev.jsonl chooses between options, test.jsonl is read once, for the score. Start with 50 rows in each.
        data=Data.folder("@DATA@"),
        # What an answer must be before anything is learned from it. The first that refuses ends it.
        validators=[
            parses(),  # one JSON value, nothing around it
            schema(),  # known functions, right types, values within their bounds
            grounded({"dim_light.percent": percent}, leading=("the", "my")),  # the values are said in the input
            equivalent(),  # the same as the target, where the target is known
        ],
        # Cases the validators must get right: `workbench check` tries them.
        probes=[
            accept({"text": "hall at ten percent"}, '[{"name":"dim_light","arguments":{"room":"hall","percent":10}}]'),
            reject({"text": "off"}, '[{"name":"switch_light","arguments":{"room":"hall","on":false}}]', by="grounded"),
            reject({"text": "dim the hall"}, '[{"name":"dim_light","arguments":{"room":"hall"}}]', by="schema"),
        ],
    )
'''


def _switch(room: str, on: bool) -> dict[str, Any]:
    return {"name": "switch_light", "arguments": {"room": room, "on": on}}


def _dim(room: str, percent: int) -> dict[str, Any]:
    return {"name": "dim_light", "arguments": {"room": room, "percent": percent}}


ROWS: dict[str, tuple[tuple[str, list[dict[str, Any]]], ...]] = {
    "seeds.jsonl": (
        ("kitchen light on", [_switch("kitchen", True)]),
        ("I'm off to sleep, kill the lamp in the bedroom please", [_switch("bedroom", False)]),
        ("it's pitch dark in the cellar", [_switch("cellar", True)]),
        ("bring the dining room down to 40 percent", [_dim("dining room", 40)]),
        ("half brightness for the nursery", [_dim("nursery", 50)]),
        ("porch on and garage off", [_switch("porch", True), _switch("garage", False)]),
        ("put the kettle on", []),
        ("which bulb uses less power, led or halogen?", []),
    ),
    "dev.jsonl": (
        ("nobody is in the study any more, lights out there", [_switch("study", False)]),
        ("Could you light up the stairs?", [_switch("stairs", True)]),
        ("bathroom at seventy percent", [_dim("bathroom", 70)]),
        ("i want the workshop as bright as it goes, full power", [_dim("workshop", 100)]),
        ("turn off the laundry room, then set the den to 20", [_switch("laundry room", False), _dim("den", 20)]),
        ("close the blinds in the office", []),
    ),
    "test.jsonl": (
        ("we're having breakfast on the balcony, switch it on out there", [_switch("balcony", True)]),
        ("library light off", [_switch("library", False)]),
        ("Movie time. Lower the living room to a quarter.", [_dim("living room", 25)]),
        ("guest room 65 %", [_dim("guest room", 65)]),
        ("dim the corridor to 15 and switch the pantry off", [_dim("corridor", 15), _switch("pantry", False)]),
        ("what time does the sun set today", []),
    ),
}


def write_task(folder: Path, name: str) -> Path:
    """Write `<name>.py` and `data_<name>/` into the folder; the task file last. Returns its path.

    Raises TaskError where the name will not do or something of that name is there, StoreError where the disk says no.
    """
    _refuse_name(name)
    file, data = folder / f"{name}.py", folder / f"data_{name}"
    for path in (file, data):
        if path.exists() or path.is_symlink():
            raise TaskError(f"{path} is there already, and is left as it is", "choose another name, or move it away")
    _refuse_taken(name)
    code = TASK.replace("@NAME@", name).replace("@DATA@", data.name)
    try:
        data.mkdir(parents=True)
        for split, rows in ROWS.items():
            lines = (json.dumps({"input": {"text": text}, "target": target}) for text, target in rows)
            (data / split).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with file.open("x", encoding="utf-8") as stream:
            stream.write(code)
    except OSError as error:
        raise StoreError(f"the task cannot be written: {error}", f"see to {folder}, and remove {data}") from error
    return file


def _refuse_name(name: str) -> None:
    """The name becomes a function, a file and a folder."""
    if name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_"):
        return
    near = re.sub(r"[^a-z0-9]+", "_", name.removesuffix(".py").lower()).strip("_")
    if not near.isidentifier() or keyword.iskeyword(near):
        near = f"task_{near}" if near else "my_task"
    raise TaskError(f"{name!r} cannot be the name of a Python function", f"workbench new {near}")


def _refuse_taken(name: str) -> None:
    """Names that stand for something else: a shipped task, a name the file itself uses, a module it would hide."""
    hint = f"workbench new my_{name.lower()}"
    if name in {found.name for found in registry.available()}:
        raise TaskError(f"{name} is the name of a task that is there already", hint)
    if name in re.findall(r"\w+", re.sub(r"#.*|\"\"\"(?s:.*?)\"\"\"", "", TASK)) or hasattr(builtins, name):
        raise TaskError(f"{name} already means something else in a task file", hint)
    if importlib.util.find_spec(name) is not None:
        raise TaskError(f"{name}.py would hide the Python module of that name", hint)
