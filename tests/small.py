"""A small function-calling task for tests, and how to start `workbench` on it as its own process."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from workbench.cli import main
from workbench.teachers.api import OpenAITeacher
from workbench.types import Request

Told = Callable[..., tuple[str, str]]  # a command line that fails: its error and its hint

TASK = '''\
from pydantic import BaseModel, Field
from workbench import Calls, Data, Prompt, Task, accept, reject, task
from workbench.validators import equivalent, grounded, parses, round_trip, schema


class Utterance(BaseModel):
    text: str = Field(min_length=1, max_length=400)


class OpenApp(BaseModel):
    """Open an app."""

    app: str


class CallContact(BaseModel):
    """Phone a person."""

    contact: str


class SetTimer(BaseModel):
    """Count down."""

    minutes: int = Field(ge=1, le=600)
    label: str | None = None


@task(version=1)
def talk() -> Task:
    """Turn one request into calls."""
    return Task(
        prompt=Prompt(Utterance, Calls([OpenApp, CallContact, SetTimer]), "Turn what is said into calls."),
        data=Data.folder("data"),
        validators=[parses(), schema(), grounded(), equivalent(), round_trip()],
        sources=("seed", "recombine", "inverse"),
        probes=[
            accept({"text": "open maps"}, '[{"name":"open_app","arguments":{"app":"maps"}}]'),
            reject({"text": "open maps"}, '[{"name":"open_app","arguments":{"app":"chess"}}]', by="grounded"),
        ],
    )
'''


def opening(app: str) -> dict[str, Any]:
    return {"name": "open_app", "arguments": {"app": app}}


def calling(contact: str) -> dict[str, Any]:
    return {"name": "call_contact", "arguments": {"contact": contact}}


def timer(minutes: int, label: str = "") -> dict[str, Any]:
    return {"name": "set_timer", "arguments": {"minutes": minutes, **({"label": label} if label else {})}}


ROWS: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {
    "seeds": [
        ("open the calculator app for me", [opening("calculator")]),
        ("Get Instagram up on the screen", [opening("Instagram")]),
        ("launch chess, I am bored", [opening("chess")]),
        ("ring Anna", [calling("Anna")]),
        ("could you phone Uncle Tomasz please", [calling("Uncle Tomasz")]),
        ("give Dr Okafor a call", [calling("Dr Okafor")]),
        ("timer 10 minutes", [timer(10)]),
        ("25 minutes for the sourdough, go", [timer(25, "sourdough")]),
        ("count down forty minutes", [timer(40)]),
        ("call Li and open the notes app", [calling("Li"), opening("notes")]),
        ("tell me a joke", []),
        ("who painted the ceiling", []),
    ],
    "dev": [
        ("start up the weather app", [opening("weather")]),
        ("I need to speak to Marguerite", [calling("Marguerite")]),
        ("7 minutes, soft eggs", [timer(7, "soft eggs")]),
        ("bring up the bank thing", []),
        ("telephone Sanjay now", [calling("Sanjay")]),
        ("show me Duolingo", [opening("Duolingo")]),
    ],
    "test": [
        ("fire up Spotify", [opening("Spotify")]),
        ("get Beatriz on the line", [calling("Beatriz")]),
        ("thirty minutes till the laundry", [timer(30, "laundry")]),
        ("is it raining in Oslo", []),
        ("dial Grandpa Joe", [calling("Grandpa Joe")]),
        ("wake the camera app", [opening("camera")]),
    ],
}
KEY = "wb-live-0123456789abcdef"  # no form that a pattern would know
NO_KEYS = {"OPENAI_API_KEY", "WORKBENCH_TEST_KEY"}


def write_rows(path: Path, rows: list[tuple[str, list[dict[str, Any]]]]) -> None:
    lines = (json.dumps({"input": {"text": text}, "target": target}) for text, target in rows)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_task(folder: Path) -> Path:
    """talk.py and its data in `folder`; gives the path of talk.py."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        write_rows(folder / "data" / f"{split}.jsonl", rows)
    (folder / "talk.py").write_text(TASK)
    return folder / "talk.py"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from workbench.cli import main; main()", *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's own, without API keys and proxies."""
    kept = {k: v for k, v in os.environ.items() if k not in NO_KEYS and not k.lower().endswith("_proxy")}
    return {**kept, "COLUMNS": "200", **more}


def workbench(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end in `folder`."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same within this process: a fresh one costs seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["workbench", *arguments]),
    ):
        try:
            code: Any = main()
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code or 0, out.getvalue(), err.getvalue())


def sampling(base_url: str, *sets: str) -> list[str]:
    """`run talk.py` up to the shard, with the server as its teacher."""
    settings = (f"teacher.base_url={base_url}", "shots.mode=group", "sample.inverse=60", "sample.values_per_slot=10",
                "sample.candidates=1", "select.recombine=60", *sets)  # fmt: skip
    return [
        "run", "talk.py", "--until", "select", "--teacher", "fake", *(w for s in settings for w in ("--set", s))
    ]  # fmt: skip


def question(text: str = "hello", **options: object) -> Request:
    return Request.model_validate({"messages": [{"role": "user", "content": text}], **options})


def teacher_at(url: str, timeout_s: float = 5.0) -> OpenAITeacher:
    return OpenAITeacher("fake", base_url=url, key=KEY, licence="CC0-1.0", timeout_s=timeout_s)
