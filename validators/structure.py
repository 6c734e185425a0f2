"""Is the text an answer at all? `parses`: one JSON value and nothing around it. `schema`: of the declared form."""

from dataclasses import dataclass
from typing import Literal

from workbench.declaration import Task
from workbench.outputs import ParseError
from workbench.types import Check, Judged


@dataclass(frozen=True)
class Structure:
    """Fails where reading the text breaks at this stage; a later stage's fault is not its business."""

    name: str
    stage: Literal["json", "schema"]

    def judge(self, judged: Judged, task: Task) -> Check:
        if judged.value is not None:  # it was read already
            return Check(validator=self.name, outcome="pass")
        try:
            task.output.parse(judged.text)
        except ParseError as error:
            if error.stage == self.stage:
                return Check(validator=self.name, outcome="fail", reason=str(error))
        return Check(validator=self.name, outcome="pass")


def parses() -> Structure:
    """The whole text is one JSON value: prose before or after it fails."""
    return Structure("parses", "json")


def schema() -> Structure:
    """Known functions or fields, right types, values within their bounds."""
    return Structure("schema", "schema")
