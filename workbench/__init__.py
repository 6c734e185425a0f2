"""The distillation workbench: one narrow task in, one small expert model for a device out.

The public surface of a task file is what this module exports; nothing here loads torch, dspy or llama.cpp.
"""

from workbench.outputs import Calls, Record
from workbench.task import Data, Probe, Prompt, Task, accept, reject, task
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
