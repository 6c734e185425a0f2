"""Every error a user can meet, named by the boundary that broke.

    WorkbenchError
    ├── TaskError        a task file: not found, does not import, does not declare what it must
    ├── DataError        a data row does not fit the task's schema
    ├── ConfigError      an option or a config file
    ├── TermsError       a teacher's terms speak against training on its outputs, and nobody accepted that
    ├── TeacherError     a teacher said no, or nothing; see `kind`
    ├── ModelError       a model could not be fetched or is not the file it should be
    ├── StudentError     a student cannot be loaded or trained
    ├── LogitError       a file of a teacher's logits: damaged, of another tokenizer, or a row that cannot go into it
    ├── EdgeError        conversion, quantization or llama.cpp
    ├── StoreError       the disk: full, torn, not ours
    └── LockedError      another run is at work in the same place

Each carries `hint`: the next thing to type or to change.
"""

from functools import partial
from typing import Any, Literal

TeacherKind = Literal["auth", "refused", "rate", "timeout", "server", "network", "bad_reply", "budget"]


class WorkbenchError(Exception):
    """Base of all errors that are told to the user without a traceback."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TaskError(WorkbenchError):
    pass


class DataError(WorkbenchError):
    pass


class ConfigError(WorkbenchError):
    pass


class TermsError(WorkbenchError):
    pass


class TeacherError(WorkbenchError):
    """A call to a teacher failed. `kind` says how, `fatal` whether asking anything else of it is pointless; `wait_s` is how
    long it asks to be left alone."""

    def __init__(
        self, message: str, hint: str = "", *, kind: TeacherKind, fatal: bool = False, wait_s: float = 0.0
    ) -> None:
        super().__init__(message, hint)
        self.kind: TeacherKind = kind
        self.fatal = fatal
        self.wait_s = wait_s

    def __reduce__(self) -> tuple[Any, ...]:
        """To be told to another process."""
        return partial(TeacherError, kind=self.kind, fatal=self.fatal, wait_s=self.wait_s), (str(self), self.hint)


class ModelError(WorkbenchError):
    pass


class StudentError(WorkbenchError):
    pass


class LogitError(WorkbenchError):
    pass


class EdgeError(WorkbenchError):
    pass


class StoreError(WorkbenchError):
    pass


class LockedError(WorkbenchError):
    pass
