"""What the teacher is told when it writes: new values and answers in the manner of the seeds, and inputs for answers."""

import random
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from workbench.declaration import Task
from workbench.outputs import ParseError
from workbench.sources.values import is_code, pools_of
from workbench.teachers.prompts import Program, by_group
from workbench.types import Example, Message

VALUES_A_CALL = 25
ANSWERS_A_CALL = 8
LONGEST_VALUE = 80  # characters
SHOTS = 16
GIVEN = "given_"  # so that an input's `answer` is not the answer


class ValueWriter:
    """More values for a slot that is copied text, one a line, in the manner of the seeds' values."""

    def __init__(self, task: Task, seeds: Sequence[Example]) -> None:
        self.values = {
            slot: [value for value in values if not is_code(value)]
            for slot, values in pools_of(task.output, [seed.target for seed in seeds]).items()
        }
        self.program = Program(
            "slot, examples -> more",
            f"{task.title}\nThe answers have this form:\n{task.output.describe()}\n\n"
            "You are given one field and some of its values. Write other values for it, one a line, as different from each "
            "other as real life is: short and long, plain and odd, from many countries, ages and trades. "
            "No numbering, no quotes, nothing else.",
        )

    def messages(self, slot: str, rng: random.Random) -> tuple[Message, ...]:
        values = list(self.values[slot])
        rng.shuffle(values)
        examples = "\n".join(values[:10])
        return self.program.messages(
            [], {"slot": slot, "examples": f"\n{examples}\n\nWrite {VALUES_A_CALL} other ones."}
        )

    def read(self, text: str) -> list[str]:
        """The values in a reply; lines that are none are passed over (they are counted by their absence)."""
        lines = (
            re.sub(r"^\s*(?:[-*\u2022]|\d+[.)])\s+", "", line).strip().strip("\"'`,.") for line in text.splitlines()
        )
        return [line for line in lines if 0 < len(line) <= LONGEST_VALUE and not re.search(r"[{}\[\]\"]|: |:$", line)]


class AnswerWriter:
    """New answers of one group, a JSON a line, in the manner of the seeds' answers."""

    def __init__(self, task: Task, seeds: Sequence[Example]) -> None:
        self.task = task
        self.groups = by_group(task.output, [seed for seed in seeds if task.output.slots(seed.target)])
        self.program = Program(
            "examples -> more",
            f"{task.title}\nThe answers have this form:\n{task.output.describe()}\n\n"
            "You are shown some answers. Write new ones of the same form, one JSON a line, as different from each other as "
            "real life is: other people, places, things, matters and words, from many countries and ages. "
            "Leave optional fields out as often as the examples do. Write nothing else.",
        )

    def messages(self, group: str, rng: random.Random) -> tuple[Message, ...]:
        seeds = list(self.groups[group])
        rng.shuffle(seeds)
        lines = "\n".join(self.task.output.dump(seed.target) for seed in seeds[:6])
        return self.program.messages([], {"examples": f"{lines}\n\nWrite {ANSWERS_A_CALL} new ones."})

    def read(self, text: str) -> list[Any]:
        """The answers in a reply; lines that are none are passed over (they are counted by their absence)."""
        answers = []
        for line in text.splitlines():
            start = min((at for at in (line.find("["), line.find("{")) if at >= 0), default=-1)
            if start < 0:
                continue
            found = line[start:].strip().rstrip(",")
            for form in (found, f"[{found}]"):  # a small teacher writes one call where a list of calls is meant
                try:
                    answers.append(self.task.output.parse(form))
                    break
                except ParseError:
                    continue
        return answers


class InputWriter:
    """An answer -> the messages that ask for an input to which it is the right answer.

    The shots are the same for all answers (the first seeds of each group in turn), so that a server reads them once; what
    varies, the answer and the style (length, case, one of the task's styles), stands at the end and is short.
    """

    def __init__(self, task: Task, seeds: Sequence[Example]) -> None:
        self.task = task
        self.seeds = list(seeds)
        in_turn = [seed for turn in zip_longest(*by_group(task.output, seeds).values()) for seed in turn if seed]
        self.demos = [
            {
                **self._fields(seed.target, measured_style(self._said(seed)), task.given(seed.input)),
                "request": self._said(seed),
            }
            for seed in in_turn[:SHOTS]
        ]
        beside = [GIVEN + name for name in task.prompt.input.model_fields if name != task.written]
        self.program = Program(
            f"{', '.join([*beside, 'answer', 'style'])} -> request",
            f"{task.title}\n{task.prompt.instructions.strip()}\n\n{task.output.describe()}\n\n"
            f"Here it goes backwards: you are given the answer and write the input ({task.written}) that it is the right "
            "answer to, as a real person would say it. Say all that the answer holds and nothing more. "
            "Use the answer's text values exactly as they are. Write the input alone.",
        )

    def messages(self, answer: Any, style: str, given: Mapping[str, Any]) -> tuple[Message, ...]:
        """`given`: the input's fields that are not to be written."""
        return self.program.messages(self.demos, self._fields(answer, style, given))

    def _fields(self, answer: Any, style: str, given: Mapping[str, Any]) -> dict[str, str]:
        beside = {GIVEN + name: "" if value is None else str(value) for name, value in given.items()}
        return {**beside, "answer": self.task.output.dump(answer), "style": style}

    def _said(self, seed: Example) -> str:
        return str(seed.input[self.task.written])

    def style(self, rng: random.Random) -> str:
        """As long and as careful as some seed; each of the task's knobs is turned half of the time."""
        measured, styles = measured_style(self._said(rng.choice(self.seeds))), self.task.styles
        knobs = list(styles.values()) if isinstance(styles, Mapping) else [styles] if styles else []
        return ", ".join([measured, *(rng.choice(values) for values in knobs if rng.random() < 0.5)])

    def read(self, text: str) -> str:
        """The input in a reply: without the quotes or the field name that some models put around it."""
        line = text.strip().removeprefix("request:").strip()
        return line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' else line


def measured_style(text: str) -> str:
    """What can be said of a text's manner by counting: `about 8 words, lower case`."""
    count = len(text.split())
    rounded = count if count < 5 else 5 * round(count / 5)
    return f"about {rounded} words, {'lower case' if text == text.lower() else 'with capitals'}"
