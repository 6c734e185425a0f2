"""What a teacher is told. A prompt is a dspy signature with demonstrations, turned into messages by a dspy adapter.

The adapter is plainer than dspy's own: no field markers, one turn a demonstration. A 1.5B teacher reads 100 tokens a second
on a small machine, so every marker is paid for in time; and the long part (instructions, demonstrations) comes first and
is the same for all requests of one group, so that the server reads it once.
A program that dspy optimized (instructions and demos) takes the place of the plain one: `Program.saved`.
"""

import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.config import ShotsConfig
from workbench.declaration import Task
from workbench.errors import ConfigError
from workbench.nearest import Nearest, input_text
from workbench.outputs import Output
from workbench.scoring import shuffled
from workbench.types import Example, Message

VOTERS = 5  # nearest seeds that vote for a group
KNOWN = 64  # few-shot blocks whose messages are kept
_PLACE = "\u2402{}\u2403"  # stands for an input while the block is made
_PLACES = re.compile("\u2402(\\w+)\u2403")


@lru_cache(maxsize=1)
def plain_adapter() -> Any:
    """The adapter, made on first use: importing dspy takes seconds."""
    import dspy

    class PlainAdapter(dspy.Adapter):  # type: ignore[misc]
        def format_system_message(self, signature: Any) -> str:
            return str(signature.instructions)

        def format_user_message_content(
            self, signature: Any, inputs: Any, prefix: str = "", suffix: str = "", main_request: bool = False
        ) -> str:
            fields = [(name, inputs[name]) for name in signature.input_fields if inputs.get(name)]
            text = str(fields[0][1]) if len(fields) == 1 else "\n".join(f"{name}: {value}" for name, value in fields)
            return f"{prefix}{text}{suffix}"

        def format_assistant_message_content(
            self, signature: Any, outputs: Any, missing_field_message: str | None = None
        ) -> str:
            return "\n".join(str(outputs.get(name, missing_field_message)) for name in signature.output_fields)

        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            return {name: completion.strip() for name in signature.output_fields}

    return PlainAdapter()


class Program:
    """A dspy signature: `fields` such as "request -> answer", and instructions."""

    def __init__(self, fields: str, instructions: str) -> None:
        import dspy

        self.signature: Any = dspy.Signature(fields, instructions)
        self._known: OrderedDict[Hashable, tuple[Message, ...]] = OrderedDict()

    @classmethod
    def saved(cls, path: Path) -> tuple["Program", list[dict[str, str]]]:
        """A `dspy.Predict("request -> answer")` saved as JSON, and its demos. Raises ConfigError."""
        import dspy

        predict = dspy.Predict("request -> answer")
        try:
            predict.load(path)
            demos = [{name: str(demo[name]) for name in ("request", "answer")} for demo in predict.demos]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no saved dspy.Predict of `request -> answer`: {error!r}", "save it with predict.save(path)"
            ) from error
        program = cls("request -> answer", "")
        program.signature = predict.signature
        return program, demos

    def messages(self, demos: Sequence[Mapping[str, str]], inputs: Mapping[str, str]) -> tuple[Message, ...]:
        """What comes before the last turn is the same for all requests with these demonstrations, and is made once."""
        said = {name: text for name, text in inputs.items() if text}
        key = (tuple(said), *(tuple(demo.items()) for demo in demos))
        known = self._known.get(key)
        if known is None:
            places = {name: _PLACE.format(name) for name in said}
            made = plain_adapter().format(self.signature, [dict(demo) for demo in demos], places)
            known = tuple(Message(role=item["role"], content=item["content"]) for item in made)
            self._known[key] = known
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        *block, last = known
        content = _PLACES.sub(lambda place: said[place[1]], last.content)
        return (*block, Message(role=last.role, content=content))


class Labeler:
    """Input -> the messages that ask a teacher for the answer, with shots from the seeds.

    `fixed`: the first few of each group, mixed (where one group stands last, a small teacher answers as it does).
    `nearest`: the seeds nearest to the input by character trigrams, the nearest last.
    `group`: one seed of each group, then the rest of the group that the nearest seeds vote for, all in fixed order:
    requests of one group share the whole block, all requests its first half.
    `mixed`: one seed of each group, then the few nearest to the input, the nearest last; all requests share the first part.
    `program`: the instructions and demos that dspy saved.
    """

    def __init__(self, task: Task, seeds: Sequence[Example], mode: str, config: ShotsConfig) -> None:
        self.task = task
        self.schema = task.output.schema()
        self.mode = mode
        self.config = config
        self.program, self._demos = (
            Program.saved(Path(config.program))
            if mode == "program"
            else (Program("request -> answer", label_instructions(task)), [])
        )
        self._by_group = by_group(task.output, seeds)
        self._fixed = shuffled(
            [s for group in self._by_group.values() for s in group[: config.fixed_per_group]], seed=0
        )
        self._shown = {s.id: {"request": input_text(s), "answer": task.output.dump(s.target)} for s in seeds}
        self._nearest = Nearest(seeds)

    def messages(self, example: Example) -> tuple[Message, ...]:
        demos = self._demos or [self._shown[seed.id] for seed in self.shots(example) if seed.id != example.id]
        return self.program.messages(demos, {"request": input_text(example)})

    def shots(self, example: Example) -> list[Example]:
        if self.mode == "program":
            return []
        if self.mode == "fixed":
            return self._fixed
        if self.mode == "nearest":
            return self._nearest.to(example, self.config.nearest)[::-1]
        one_each = [group[0] for group in self._by_group.values()]
        if self.mode == "mixed":
            return one_each + self._nearest.to(example, self.config.mixed)[::-1]
        return one_each + self._by_group[self.group(example)][1:]

    def group(self, example: Example) -> str:
        """That the nearest seeds vote for."""
        votes: Counter[str] = Counter()
        for rank, seed in enumerate(self._nearest.to(example, VOTERS)):
            votes[self.task.output.group(seed.target)] += 60 // (rank + 1)
        return votes.most_common(1)[0][0]


def label_instructions(task: Task) -> str:
    return f"{task.prompt.instructions.strip()}\n\n{task.output.describe()}\n\nAnswer with the JSON alone."


def by_group(output: Output, examples: Sequence[Example]) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[output.group(example.target)].append(example)
    return dict(groups)
