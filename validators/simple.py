"""A validator from a plain function: `simple("polite", lambda judged: "rude" if "damn" in judged.text else None)`."""

from collections.abc import Callable
from dataclasses import dataclass

from workbench.declaration import Task
from workbench.types import Check, Judged


@dataclass(frozen=True)
class Simple:
    name: str
    rule: Callable[[Judged], str | None]

    def judge(self, judged: Judged, task: Task) -> Check:
        reason = self.rule(judged)
        return Check(validator=self.name, outcome="fail" if reason else "pass", reason=reason or "")


def simple(name: str, rule: Callable[[Judged], str | None]) -> Simple:
    """`rule` gives the reason for a refusal, or None where there is nothing to say against the answer."""
    return Simple(name, rule)
