"""What a task's answers look like: how they are written, read, compared and scored.

    base.py     the seam: Output, ParseError, Slot, and how two values are compared
    calls.py    Calls: a list of function calls
    record.py   Record: one typed record
    cells.py    what an output can say, in cells to be counted

One output object serves everybody: the teacher's prompt, the validators, the student's training text and the score.
"""

from workbench.outputs.base import Output, ParseError, Slot
from workbench.outputs.calls import Calls
from workbench.outputs.record import Record

__all__ = ["Calls", "Output", "ParseError", "Record", "Slot"]
