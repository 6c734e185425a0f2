"""The distillation workbench: one narrow task in, one small expert model for a device out.

The public surface of a task file is what this module exports. A name is imported when it is asked for (PEP 562), so that
`workbench --help` does not wait for pydantic; nothing here loads torch, dspy or llama.cpp.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.declaration import Data, Probe, Prompt, Task, accept, reject, task
    from workbench.outputs import Calls, Record
    from workbench.types import Check, Example, Judged

__all__ = [
    "Calls",
    "Check",
    "Data",
    "Example",
    "Judged",
    "Probe",
    "Prompt",
    "Record",
    "Task",
    "accept",
    "reject",
    "task",
]

_HOMES = {
    "workbench.outputs": ("Calls", "Record"),
    "workbench.declaration": ("Data", "Probe", "Prompt", "Task", "accept", "reject", "task"),
    "workbench.types": ("Check", "Example", "Judged"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
