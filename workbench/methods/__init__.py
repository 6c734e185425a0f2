"""Ways of learning, a small file each. Torch is imported where a lesson is made, not before."""

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import get_args

from workbench.errors import ConfigError
from workbench.methods.assistant import ByAssistant
from workbench.methods.base import Attempts, Captures, Method
from workbench.methods.dagger import Dagger
from workbench.methods.gkd import Gkd
from workbench.methods.kd import Kd
from workbench.methods.parent import OfParent
from workbench.methods.qat import Qat
from workbench.methods.sft import Sft
from workbench.students.lesson import Lesson
from workbench.students.settings import Captured

__all__ = ["BUILT_IN", "GROUP", "Captured", "Lesson", "Method", "Sft", "named", "names"]

GROUP = "workbench.methods"
BUILT_IN: dict[str, Method] = {
    method.name: method for method in (Sft(), Kd(), Gkd(), Dagger(), ByAssistant(), OfParent(), Qat())
}


def names() -> list[str]:
    """All methods that can be named, the built-in ones first."""
    return [*BUILT_IN, *(name for name in sorted(_brought()) if name not in BUILT_IN)]


def named(name: str) -> Method:
    """Raises ConfigError where there is none, or where another package's cannot be imported."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    point = _brought().get(name)
    if point is None:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no method {name!r}", f"{hint}there are {', '.join(names())}")
    try:
        found = point.load()
    except Exception as error:  # another package's code may raise anything
        raise ConfigError(
            f"the method {name!r} ({point.value}) cannot be imported: {error}", "mend its package"
        ) from error
    method = found() if isinstance(found, type) else found
    if not isinstance(method, Method):
        raise ConfigError(f"{point.value} is no workbench.methods.Method", "mend its package")
    for attribute, known in (("captures", Captures), ("attempts", Attempts)):
        if (value := getattr(method, attribute)) not in get_args(known):
            choices = ", ".join(repr(one) for one in get_args(known))
            raise ConfigError(
                f"{point.value}: {attribute} is {value!r}, which is none of {choices}", "mend its package"
            )
    if (method.attempts == "rows") != (method.captures == "attempts"):
        raise ConfigError(f"{point.value}: attempts at the shard's rows are there to be captured", "mend its package")
    if method.labels and method.attempts:
        raise ConfigError(f"{point.value}: assistant and student both answer first", "labels, or attempts")
    if method.attempts and method.rounds < 2:
        raise ConfigError(f"{point.value}: the student answers first in a second round", "rounds = 2, at least")
    return method


def _brought() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
