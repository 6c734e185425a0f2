"""Base, teacher, merged student and each GGUF on the same test rows, through the same runtime, by the same task."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from workbench import models
from workbench.edge.convert import to_gguf
from workbench.scoring import Table, mcnemar, median, shuffled, table_of
from workbench.stages.context import Context, read_json, write_json, write_jsonl
from workbench.stages.exam import STUDENT_CONTEXT, Answer, Chat, ask_all, seconds_alone, user, words
from workbench.stages.export import UNQUANTIZED
from workbench.stages.shots import asker_for, label_all, parsed
from workbench.stages.ticker import Ticker
from workbench.teachers.build import build_teacher
from workbench.teachers.embedded import CONTEXT_TOKENS
from workbench.teachers.prompts import Labeler
from workbench.types import Example, Frozen


class Given(Frozen):
    """One line of answers.jsonl: what an entrant answered to a test row."""

    entrant: str
    example: str
    text: str


class Evaluation:
    """Collects each entrant's answers and figures."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.config = context.config.evaluate
        rows = context.examples("test")
        self.rows = shuffled(rows, 0)[: self.config.rows] if self.config.rows else rows
        mode = read_json(context.inputs["shots"] / "shots.json")["best"]
        self.labeler = Labeler(context.task, context.examples("seed"), mode, context.config.shots)
        self.timed_rows = self._sharing()[: self.config.timed]
        self.answers: dict[str, list[str]] = {}
        self.entrants: list[dict[str, Any]] = []

    def _sharing(self) -> list[Example]:
        """The test rows in a mixed order, those of the commonest few-shot block first: to be timed with it in the cache, a
        block is to be read once."""
        rows = shuffled(self.rows, 1)
        blocks = [tuple(words(self.labeler.messages(row)[:-1])) for row in rows]
        common = Counter(blocks)
        order = sorted(range(len(rows)), key=lambda place: (-common[blocks[place]], blocks[place]))
        return [rows[place] for place in order]

    def ticker(self, label: str, rows: list[Example]) -> Ticker:
        return Ticker(self.context.say, f"evaluate: {label}", "test rows", len(rows))

    def add(self, key: str, label: str, rows: list[Example], answers: list[Answer], **figures: Any) -> None:
        output = self.context.task.output
        values = [(parsed(output, answer.text), row.target) for answer, row in zip(answers, rows, strict=True)]
        table: Table = table_of(output, values, self.config.bootstrap)
        self.answers[key] = [answer.text for answer in answers]
        tokens = sum(answer.prompt_tokens for answer in answers) / max(1, len(answers))
        self.entrants.append(
            {
                "key": key,
                "label": label,
                "rows": len(rows),
                "prompt_tokens": round(tokens, 1),
                "scores": {name: score._asdict() for name, score in table.items()},
                **figures,
            }
        )
        self.context.say(f"evaluate: {label}: exact {table['exact'].value:.1f} on {len(rows)} test rows")

    def right(self, key: str) -> list[bool]:
        output = self.context.task.output
        return [
            output.tally(parsed(output, text), row.target)["exact"][0] == 1.0
            for text, row in zip(self.answers[key], self.rows, strict=True)
        ]

    def student_chats(self, rows: list[Example]) -> list[Chat]:
        return [user(self.context.task.student_prompt(row.input)) for row in rows]

    def timed(self, gguf: Path, *, few_shot: bool) -> float:
        """Median seconds of one request alone, over `timed` rows; the warm-up shares the prefix, not the input."""
        if few_shot:
            chats: list[Chat] = [self.labeler.messages(row) for row in self.timed_rows]
            warm: list[Chat] = [(*chat[:-1], user("hello")[0]) for chat in chats]
        else:
            chats = self.student_chats(self.timed_rows)
            warm = [user("hello") for _ in chats]
        taken = seconds_alone(
            gguf,
            chats,
            warm,
            self.context.config.runtime,
            max_tokens=self.context.config.student.max_tokens,
            context=CONTEXT_TOKENS if few_shot else STUDENT_CONTEXT,
        )
        return round(median(taken), 4)


def run(context: Context) -> None:
    """Writes results.json and answers.jsonl."""
    evaluation = Evaluation(context)
    export = read_json(context.inputs["export"] / "export.json")
    _base(evaluation)
    _teacher(evaluation)
    for file in export["files"]:
        name, path = file["name"], context.inputs["export"] / f"{file['name']}.gguf"
        label = "student, unquantized" if name == UNQUANTIZED else f"student, {name}"
        answers = ask_all(
            path,
            evaluation.student_chats(evaluation.rows),
            context.config.runtime,
            max_tokens=context.config.student.max_tokens,
            context=STUDENT_CONTEXT,
            tick=evaluation.ticker(label, evaluation.rows),
        )
        evaluation.add(
            "merged" if name == UNQUANTIZED else name,
            label,
            evaluation.rows,
            answers,
            file_bytes=file["size_bytes"],
            seconds=evaluation.timed(path, few_shot=False),
            shipped=file["chosen"],
        )
    paired = mcnemar(evaluation.right(export["chosen"]), evaluation.right("teacher"))
    write_json(
        context.out / "results.json",
        {
            "metrics": list(context.task.output.metrics),
            "entrants": evaluation.entrants,
            "chosen": export["chosen"],
            "versus_teacher": paired._asdict(),
        },
    )
    given = [
        Given(entrant=key, example=row.id, text=text)
        for key, texts in evaluation.answers.items()
        for row, text in zip(evaluation.rows, texts, strict=False)
    ]
    write_jsonl(context.out / "answers.jsonl", given)


def _base(evaluation: Evaluation) -> None:
    """The untrained student, given the teacher's own prompt: what prompting the small model would have been worth."""
    context, rows = evaluation.context, evaluation.rows[: evaluation.config.base_rows]
    if not rows:
        return
    path = models.path_or_name(context.config.student.model)
    if path.suffix != ".gguf":
        from workbench.students.rendering import rendering_for

        path = to_gguf(path, context.out / "base.gguf", rendering_for(path))
    label = "base student, few-shot"
    answers = ask_all(
        path,
        [evaluation.labeler.messages(row) for row in rows],
        context.config.runtime,
        max_tokens=context.config.student.max_tokens,
        context=CONTEXT_TOKENS,
        tick=evaluation.ticker(label, rows),
    )
    seconds = evaluation.timed(path, few_shot=True)
    evaluation.add("base", label, rows, answers, file_bytes=path.stat().st_size, seconds=seconds)


def _teacher(evaluation: Evaluation) -> None:
    context = evaluation.context
    name, replies = asyncio.run(_replies(evaluation))
    answers = [
        Answer(reply.text, reply.usage.prompt_tokens) if reply is not None else Answer("", 0) for reply in replies
    ]
    config = context.config.teacher
    figures: dict[str, Any] = {
        "unanswered": sum(reply is None for reply in replies),
        "in_torch": name.endswith(" in torch"),
    }
    if not config.base_url and not config.model.startswith("hf:"):
        path = models.path_or_name(config.model)
        figures.update(file_bytes=path.stat().st_size, seconds=evaluation.timed(path, few_shot=True))
    elif not config.batch:  # how long one takes alone is not known there
        figures["seconds"] = round(median([reply.seconds for reply in replies if reply is not None]), 4)
    evaluation.add("teacher", f"teacher, {evaluation.labeler.mode} shots", evaluation.rows, answers, **figures)


async def _replies(evaluation: Evaluation) -> tuple[str, list[Any]]:
    """The teacher's name in the ledger, and what it answered; None where it refuses for good. Raises TeacherError where a row's
    answer may yet be had: the same command asks for it, and for none of the others."""
    context = evaluation.context
    teacher = build_teacher(context.config.teacher, context.config.runtime, context.ledger)
    try:
        await teacher.prepare()
        asker = asker_for(teacher, context.ledger, context.config)
        tick = evaluation.ticker("teacher", evaluation.rows)
        replies = await label_all(asker, evaluation.labeler, evaluation.rows, context.config, whole=True, tick=tick)
        return teacher.model, replies
    finally:
        await teacher.aclose()
