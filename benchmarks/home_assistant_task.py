"""Function calling on real requests that people wrote to a home assistant (Liu et al. 2019, CC BY 4.0).

26 functions whose arguments are all copied text. The data stays where it is: HOME_ASSISTANT_DATA names its folder.
Which arguments a function has is read from the seeds and dev rows; a test row that asks for another one keeps it, and
nobody can get it right.
"""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model
from workbench.validators import equivalent, grounded, parses, round_trip, schema

from workbench import Calls, Data, Prompt, Task, task

DATA = Path(os.environ.get("HOME_ASSISTANT_DATA", "../shared/data/home_assistant")).resolve()

INSTRUCTIONS = """\
Turn a request to a home assistant into the one call it asks for: a JSON list with one {"name", "arguments"}.
Copy argument values word for word from the request. Leave out arguments that were not said."""


class Request(BaseModel):
    text: str = Field(min_length=1, max_length=400)


def functions() -> list[type[BaseModel]]:
    """A model for each function, with the arguments seen in seeds and dev."""
    seen: dict[str, dict[str, None]] = {}
    for name in ("seeds.jsonl", "dev.jsonl"):
        for line in (DATA / name).read_text(encoding="utf-8").splitlines():
            call = json.loads(line)["call"]
            seen.setdefault(call["name"], {}).update(dict.fromkeys(call["arguments"]))
    fields: dict[str, Any] = {}
    made = []
    for name in sorted(seen):
        fields = dict.fromkeys(seen[name], (str | None, None))
        made.append(create_model(name, __config__=ConfigDict(extra="allow"), __doc__=" ", **fields))
    return made


def read(row: dict[str, Any]) -> dict[str, Any]:
    return {"input": {"text": row["text"]}, "target": [row["call"]]}


@task(version=1)
def home_assistant() -> Task:
    """Turn one request to a home assistant into the call it asks for."""
    return Task(
        prompt=Prompt(
            input=Request, output=Calls(functions(), max_calls=1), instructions=INSTRUCTIONS, student="{text}"
        ),
        data=Data(DATA, read),
        validators=[parses(), schema(), grounded(), equivalent(), round_trip(on="group")],
        sources=("seed", "recombine", "inverse"),
        styles=("a few words", "polite", "indirect", "a question", "chatty"),
    )
