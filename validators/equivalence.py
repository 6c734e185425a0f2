"""Where the right answer is known: does the candidate ask for the same, as the schema means it?"""

from dataclasses import dataclass

from workbench.declaration import Task
from workbench.types import Check, Judged


@dataclass(frozen=True)
class Equivalent:
    """Order, defaults, number formats and letter case count as the task's output says. Silent where no target is known."""

    name: str = "equivalent"

    def judge(self, judged: Judged, task: Task) -> Check:
        target = judged.example.target
        if target is None or (judged.value is not None and task.output.same(judged.value, target)):
            return Check(validator=self.name, outcome="pass")
        return Check(validator=self.name, outcome="fail", reason=f"the target is {task.output.dump(target)}")


def equivalent() -> Equivalent:
    return Equivalent()
