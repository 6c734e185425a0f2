"""A teacher's prompt, written by dspy's optimizers: the task's validators are the metric, every question goes through the
ledger, a budget of calls ends it.

The optimizer sees seeds alone, half of them to take demonstrations from and half to score on. Dev rows say afterwards
whether what it found is better than the plain few-shot block; a run asks them once more (`shots.program`).
"""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workbench.config import Config
from workbench.declaration import Task
from workbench.errors import ConfigError, TeacherError
from workbench.judge import judge_cheap
from workbench.ledger import Ledger
from workbench.nearest import input_text
from workbench.scoring import Paired, Score, mcnemar, shuffled
from workbench.stages.shots import answers, asker_for, label_all, right, score_replies
from workbench.teachers.asker import Asker, Limits
from workbench.teachers.build import build_teacher
from workbench.teachers.prompts import Labeler, Program, label_instructions, plain_adapter
from workbench.types import Example, Message, Request

Optimizer = Literal["bootstrap", "mipro", "gepa"]
DEMOS = 4  # that the teacher answered itself
SEEDS = 12  # and that are seeds, in a prompt
SPARE = 0.8  # of the budget is planned with; what an optimizer asks beside its trials is not told beforehand


class Tuned(NamedTuple):
    """Exact match on dev of the plain block and of the program, row by row against each other (a: plain, b: program)."""

    plain: Score
    program: Score
    versus: Paired
    calls: int
    file: Path


def tuned(task: Task, config: Config, ledger: Ledger, optimizer: Optimizer, calls: int, rows: int, file: Path) -> Tuned:
    """Raises TeacherError, `kind="budget"` where `calls` were spent before the optimizer came to its end."""
    return asyncio.run(_tuned(task, config, ledger, optimizer, calls, rows, file))


async def _tuned(
    task: Task, config: Config, ledger: Ledger, optimizer: Optimizer, calls: int, rows: int, file: Path
) -> Tuned:
    if config.teacher.batch:
        raise ConfigError("an optimizer asks a few questions at a time", "leave teacher.batch out for it")
    seeds, dev = task.examples("seed"), task.examples("dev")[:rows]
    teacher = build_teacher(config.teacher, config.runtime, ledger)
    try:
        await teacher.prepare()
        asker = asker_for(teacher, ledger, config, Limits(calls=calls, money=config.runtime.max_money))
        engine = Engine(asker, asyncio.get_running_loop(), config)
        await asyncio.to_thread(_optimize, task, seeds, engine, optimizer, calls, file)
        scored = asker_for(teacher, ledger, config)
        modes = ("group" if config.shots.mode in ("auto", "program") else config.shots.mode, "program")
        shots = config.shots.model_copy(update={"program": str(file)})
        found = [await label_all(scored, Labeler(task, seeds, mode, shots), dev, config) for mode in modes]
    finally:
        await teacher.aclose()
    for replies in found:
        answers(dev, replies, scored)
    plain, program = ([right(task.output, row, reply) for row, reply in zip(dev, each, strict=True)] for each in found)
    scores = [score_replies(task.output, dev, [r.text if r else "" for r in each])["exact"] for each in found]
    return Tuned(scores[0], scores[1], mcnemar(plain, program), asker.spent.calls, file)


class Engine:
    """What dspy asks, asked through the Asker; called in dspy's threads. `ended` is the error after which nothing more is
    asked: dspy takes single failures for wrong answers."""

    def __init__(self, asker: Asker, loop: asyncio.AbstractEventLoop, config: Config) -> None:
        self._asker = asker
        self._loop = loop
        self._max_tokens = config.teacher.max_tokens
        self._drawn: Counter[tuple[Message, ...]] = Counter()
        self.ended: TeacherError | None = None

    def complete(self, request: Any) -> Any:
        from dspy import lm15

        if self.ended is not None:
            raise self.ended
        asked = self._request(request)
        try:
            reply = asyncio.run_coroutine_threadsafe(self._asker.ask(asked), self._loop).result().reply
        except TeacherError as error:
            if error.fatal or error.kind == "budget":
                self.ended = error
            raise
        usage = reply.usage
        return lm15.Response(
            id=None,
            model=request.model,
            message=lm15.Message.assistant([lm15.TextPart(reply.text)]),
            finish_reason="length" if reply.finish == "length" else "stop",
            usage=lm15.Usage(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.prompt_tokens + usage.completion_tokens,
            ),
        )

    def _request(self, request: Any) -> Request:
        """What is drawn more than once from the same prompt is another question each time."""
        told = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        head = (Message(role="system", content=told),) if told else ()
        messages = (*head, *(Message(role=item.role, content=item.text or "") for item in request.messages))
        temperature, k = float(request.config.temperature or 0.0), 0
        if temperature:
            k, self._drawn[messages] = self._drawn[messages], self._drawn[messages] + 1
        return Request(
            messages=messages,
            temperature=temperature,
            max_tokens=request.config.max_tokens or self._max_tokens,
            k=k,
            purpose="tune",
        )


def _optimize(
    task: Task, seeds: Sequence[Example], engine: Engine, optimizer: Optimizer, calls: int, file: Path
) -> None:
    import dspy

    lm = dspy.LM("workbench", engine=engine, cache=False, num_retries=0, temperature=0.0)
    by_text = {input_text(seed): seed for seed in seeds}
    rows = [
        dspy.Example(request=text, answer=task.output.dump(seed.target)).with_inputs("request")
        for text, seed in by_text.items()
    ]
    rows = shuffled(rows, seed=0)
    shown, scored = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    metric = _metric(task, by_text)
    start = dspy.Predict(Program("request -> answer", label_instructions(task)).signature)
    with dspy.context(lm=lm, adapter=plain_adapter()), contextlib.redirect_stdout(sys.stderr):  # dspy prints as it goes
        found = _OPTIMIZERS[optimizer](start, shown, scored, metric, int(calls * SPARE), lm)
    if engine.ended is not None:
        raise engine.ended
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part.json")  # dspy writes JSON only where the name says so
    found.save(temporary)
    temporary.replace(file)


def _metric(task: Task, by_text: dict[str, Example]) -> Callable[..., Any]:
    """1 where all cheap validators let the answer by, with its target in their hands; their reason is GEPA's feedback."""
    import dspy

    def metric(gold: Any, answer: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        verdict = judge_cheap(task, by_text[gold.request], str(getattr(answer, "answer", "")))
        score = float(verdict.outcome == "pass")
        if pred_name is None:
            return score
        said = "Right." if score else f"Wrong: {verdict.reason} The right answer is {gold.answer}"
        return dspy.Prediction(score=score, feedback=said)

    return metric


def _bootstrap(start: Any, shown: Any, scored: Any, metric: Any, calls: int, lm: Any) -> Any:
    import dspy

    each = len(scored) + DEMOS
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric,
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=SEEDS,
        num_candidate_programs=max(1, calls // each - 3),  # three more are tried in any case
    )
    return search.compile(start, trainset=shown, valset=scored)


def _mipro(start: Any, shown: Any, scored: Any, metric: Any, calls: int, lm: Any) -> Any:
    import dspy

    try:
        import optuna  # noqa: F401 - dspy's optimizer imports it in its constructor, and fails without a word of help
    except ImportError:
        raise ConfigError(
            "MIPROv2 needs optuna", "pip install 'distillation-workbench[tune]', or take --optimizer gepa or bootstrap"
        ) from None
    trials = max(1, calls // len(scored) - 2)
    search = dspy.MIPROv2(
        metric=metric,
        prompt_model=lm,
        task_model=lm,
        auto=None,
        num_candidates=min(6, trials),
        max_bootstrapped_demos=DEMOS,
        max_labeled_demos=SEEDS,
    )
    return search.compile(start, trainset=shown, valset=scored, num_trials=trials, minibatch=False)


def _gepa(start: Any, shown: Any, scored: Any, metric: Any, calls: int, lm: Any) -> Any:
    import dspy

    search = dspy.GEPA(metric=metric, max_metric_calls=calls, reflection_lm=lm.copy(temperature=1.0, max_tokens=2048))
    return search.compile(start, trainset=shown, valset=scored)


_OPTIMIZERS: dict[str, Callable[..., Any]] = {"bootstrap": _bootstrap, "mipro": _mipro, "gepa": _gepa}


def told(found: Tuned, task: str) -> list[str]:
    score = [f"{each.value:.1f} ({each.low:.1f} to {each.high:.1f})" for each in (found.plain, found.program)]
    versus = found.versus
    return [
        f"exact match on dev: the plain block {score[0]}, the program {score[1]}",
        f"right alone: the plain block on {versus.only_a} rows, the program on {versus.only_b} (McNemar, p = {versus.p:.2f})",
        f"{found.calls} calls for {found.file}",
        f"`workbench run {task} --profile full --set shots.program={found.file}` tries it beside the plain blocks, and keeps "
        "what wins on dev",
    ]
