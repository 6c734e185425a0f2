"""What the assistant, which learned the rows, makes of other inputs: its words, judged by the cheap validators.

Which inputs: those of a corpus that no answer of a teacher passed for, in the order in which a teacher would be asked; where
the task has none, those that a teacher wrote in vain.
"""

import asyncio
from collections.abc import Sequence
from itertools import islice

from workbench.judge import judge_cheap
from workbench.provenance import joined, licence_of_model
from workbench.stages.attempt import UNENDED, fitting_in, unanswered
from workbench.stages.context import Context, read_jsonl, write_json, write_jsonl
from workbench.stages.gate import Leaks
from workbench.stages.ticker import Ticker
from workbench.teachers.whitebox import TransformersTeacher
from workbench.types import Candidate, Example, Judgement, Message, Reply, Request

FILE = "labelled.jsonl"
SOURCE = "assistant"


def run(context: Context) -> None:
    """Writes labelled.jsonl, judged, and leaks.json (held-out rows that inputs of the corpus were too like). An input that
    is too long for the student is left out."""
    config, leaks = context.config, Leaks()
    candidates = list(read_jsonl(context.inputs["sample"] / "candidates.jsonl", Judgement))
    passed = [item for item in candidates if item.verdict.outcome == "pass"]
    closed = {item.candidate.example.id for item in passed}
    inputs = list(islice(unanswered(context, candidates, closed, SOURCE, leaks), config.distil.attempts))
    fitting = fitting_in(context, inputs)
    replies = asyncio.run(_replies(context, fitting))
    # what it knows of the task it has of the teachers: their terms hold for its words too
    teachers = joined((*(item.teacher for item in passed), config.distil.assistant))
    licences = joined((*(item.licence for item in passed), licence_of_model(config.distil.assistant)))
    found = [
        Judgement(
            candidate=Candidate(example=example, text=reply.text, call="", source=SOURCE, logprob=reply.logprob),
            verdict=judge_cheap(context.task, example, reply.text) if reply.finish == "stop" else UNENDED,
            teacher=teachers,
            licence=licences,
        )
        for example, reply in zip(fitting, replies, strict=True)
    ]
    write_jsonl(context.out / FILE, found)
    write_json(context.out / "leaks.json", leaks)
    right = sum(item.verdict.outcome == "pass" for item in found)
    context.say(
        f"label: the assistant answered {len(found)} of {len(inputs)} inputs, {right} pass the cheap validators"
    )


def assistant_of(context: Context) -> TransformersTeacher:
    """The assistant, prompted as it was trained."""
    name = context.config.distil.assistant
    weights = context.inputs["assistant"] / "merge" / "weights"
    return TransformersTeacher(weights, model=f"the assistant {name}", licence=licence_of_model(name), narrow=True)


async def _replies(context: Context, examples: Sequence[Example]) -> list[Reply]:
    """Greedy ones, in the examples' order. Raises TeacherError."""
    assistant = assistant_of(context)
    tick = Ticker(context.say, "label", "inputs", len(examples))

    async def asked(example: Example) -> Reply:
        message = Message(role="user", content=context.task.student_prompt(example.input))
        reply = await assistant.complete(
            Request(messages=(message,), temperature=0.0, max_tokens=context.config.student.max_tokens)
        )
        tick()
        return reply

    try:
        if examples:
            await assistant.prepare()
        return list(await asyncio.gather(*map(asked, examples)))
    finally:
        await assistant.aclose()
