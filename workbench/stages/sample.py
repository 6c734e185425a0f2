"""Generate and judge in one loop: ask again only where nothing passed yet, stop on enough, on the budget, or when hopeless.

A wish is an example that still needs a passing candidate: an answer that wants an input (inverse), an input that wants an
answer (forward, corpus). Many are under way at a time, but what came of them is looked at in the wishes' order: neither the
stopping rules nor the order of the rows depend on which reply came first.
"""

import asyncio
import gc
import shutil
from collections import Counter, deque
from collections.abc import Callable, Collection, Container, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from workbench.declaration import ASKING, Task
from workbench.errors import ConfigError, TeacherError
from workbench.judge import bench_for
from workbench.machine import cores
from workbench.stages.attempt import FILE as ATTEMPTS
from workbench.stages.cluster import Cluster
from workbench.stages.context import Context, jsonl, read_json, read_jsonl, write_json
from workbench.stages.gate import Leaks, add_leaks
from workbench.stages.grant import Granted, Granter
from workbench.stages.pool import Pool, Turn
from workbench.stages.ticker import Beat
from workbench.stages.wishes import Wishes, corpus_wishes, forward_wishes, inverse_wishes
from workbench.teachers.asker import Limits
from workbench.teachers.prompts import by_group
from workbench.types import Example, Judgement

Maker = Callable[[Context, Turn, Sequence[Example]], Coroutine[Any, Any, Wishes]]
ATTEMPTED = "attempted"  # the source of inputs that the student failed at, in a task without a corpus
ENOUGH, ALL_TRIED = "enough", "all wishes were tried"  # how sampling ends where no budget and no yield ends it


def run(context: Context) -> None:
    """Writes candidates.jsonl (each with its verdict), funnel.json, and leaks.json (the held-out rows that inputs of the corpus
    were too like, which were not shown to the teacher). Raises TeacherError where the teacher is dead."""
    leaks: Leaks = {}
    funnel: dict[str, Any] = {"stopped": "the task's sources ask nothing of a teacher", "wishes": 0}
    with jsonl(context.out / "candidates.jsonl") as write:
        earlier, asked = _earlier(context, write, leaks)
        own, first = _attempts(context, write, leaks)
        if ASKING & set(context.task.sources):
            funnel = asyncio.run(_sample(context, write, leaks, asked | own, first))
    if own:
        funnel |= {"own": len(own)} | {name: len(own) + funnel.get(name, 0) for name in ("candidates", "passed")}
    before = {name: earlier.pop(name, "") for name in ("stopped", "agreement")}
    funnel |= {name: count + funnel.get(name, 0) for name, count in earlier.items()}
    for pair, (same, both) in (before["agreement"] or {}).items():
        now = funnel.setdefault("agreement", {}).get(pair, (0, 0))
        funnel["agreement"][pair] = (now[0] + same, now[1] + both)
    write_json(context.out / "funnel.json", funnel)
    write_json(context.out / "leaks.json", leaks)


def _earlier(context: Context, write: Callable[[Judgement], None], leaks: Leaks) -> tuple[dict[str, Any], set[str]]:
    """What the rounds before found is this one's too: their funnel, and the examples that were asked about."""
    before = context.inputs.get("sample before")
    if before is None:
        return {}, set()
    asked = set()
    for item in read_jsonl(before / "candidates.jsonl", Judgement):
        write(item)
        asked.add(item.candidate.example.id)
    leaks.update(read_json(before / "leaks.json"))
    if (values := before / "values.json").exists():
        shutil.copyfile(values, context.out / "values.json")
    return read_json(before / "funnel.json"), asked


def _attempts(
    context: Context, write: Callable[[Judgement], None], leaks: Leaks
) -> tuple[set[str], dict[str, Example]]:
    """What the student says of inputs that nobody answered yet, where it was asked: the examples of which that passes and is a
    candidate, and those about which the teacher is asked first, by their ids."""
    passed, rest = set[str](), dict[str, Example]()
    attempt = context.inputs.get("attempt")
    if attempt is None:
        return passed, rest
    for item in read_jsonl(attempt / ATTEMPTS, Judgement):
        example = item.candidate.example
        if item.verdict.outcome == "pass":
            write(item)
            passed.add(example.id)
        else:
            rest[example.id] = example
    for row, ways in read_json(attempt / "leaks.json").items():
        add_leaks(leaks, [row], ways)
    return passed, rest


async def _sample(
    context: Context,
    write: Callable[[Judgement], None],
    leaks: Leaks,
    asked: Container[str],
    first: Mapping[str, Example],
) -> dict[str, Any]:
    config = context.config.sample
    share = context.config.rounds.count
    limits = Limits(
        config.max_calls // share, config.max_tokens // share, config.max_money / share, config.max_minutes / share
    )
    seeds = context.examples("seed")
    _known_groups(context, seeds)
    pool = Pool(context.config, context.ledger, limits, say=context.say)
    await pool.prepare()
    engine = _engine(context, pool, seeds)
    stopped = ""
    loop = Loop(context, pool, engine, write)
    gc.freeze()  # what is loaded by now, dspy above all, is not looked through again and again
    try:
        for source, make in _makers(
            context.task, leaks, asked, first
        ):  # one that the minutes do not reach asks nothing
            stopped = await loop.walk(await make(context, pool.turn(source), seeds))
            if stopped:
                break
        stopped = stopped or pool.ended or loop.tried  # it may have ended while the wishes were made
    except TeacherError as error:
        if error.kind != "budget":
            raise
        stopped = str(error)
    finally:
        gc.unfreeze()
        await engine.aclose()
        await pool.aclose()
    if leaks:
        context.say(f"sample: what is too like {len(leaks)} dev or test rows was kept from the teacher")
    outcomes, spent = loop.outcomes, pool.spent
    context.say(
        f"sample: {outcomes['pass']} of {loop.judged} candidates passed; stopped: {stopped}; "
        f"{spent.calls} calls, {spent.sent} of them sent now, {spent.failed} given up"
    )
    agreement = agreement_of(loop.agreed)
    for pair, (same, both) in agreement.items():
        context.say(f"sample: {pair} agree on {same} of {both} inputs")
    return {
        "stopped": stopped,
        "wishes": loop.wished,
        "candidates": loop.judged,
        "passed": outcomes["pass"],
        "failed": outcomes["fail"],
        "errors": outcomes["error"],
        "unmet": loop.unmet,
        "given_up": loop.given_up,
        "calls": spent.calls,  # what was sent now is not told here: a run that was killed makes the same artifact
        "tokens": spent.tokens,
        "money": round(spent.money, 6),
        **({"agreement": agreement} if agreement else {}),
    }


def _known_groups(context: Context, seeds: Sequence[Example]) -> None:
    """Raises ConfigError where a teacher of the pool is there for answers that there are not: it would never be asked."""
    known = by_group(context.task.output, seeds)
    for name in (name for member in context.config.pool.teachers for name in member.groups):
        if name not in known:
            raise ConfigError(
                f"pool.teachers: no seed's answer is of the group {name!r}", f"groups: {', '.join(known)}"
            )


def agreement_of(agreed: Counter[tuple[str, str, bool]]) -> dict[str, tuple[int, int]]:
    """Of each two teachers that voted: on how many inputs they said the same, and on how many both spoke."""
    pairs = sorted({(a, b) for a, b, _ in agreed})
    return {f"{a} and {b}": (agreed[a, b, True], agreed[a, b, True] + agreed[a, b, False]) for a, b in pairs}


def _engine(context: Context, pool: Pool, seeds: list[Example]) -> Granter | Cluster:
    """Who grants the wishes: this process, or the workers of a cluster."""
    mode = str(read_json(context.inputs["shots"] / "shots.json")["mode"])
    if context.config.runtime.engine == "ray":
        return Cluster(context, pool, seeds, mode)
    return Granter(context.task, context.config, pool, seeds, mode, bench_for(context.task, cores()))


def _makers(task: Task, leaks: Leaks, asked: Container[str], first: Mapping[str, Example]) -> list[tuple[str, Maker]]:
    """Of the wishes, a source each, in the task's order. A corpus is read here, before anything is asked. Where there is none,
    what the student failed at comes before all. Raises DataError."""
    makers: dict[str, Maker] = {"inverse": inverse_wishes, "forward": forward_wishes}
    sources: Sequence[str] = task.sources
    if "corpus" in sources:
        makers["corpus"] = partial(corpus_wishes, corpus=task.corpus(), leaks=leaks, asked=asked, first=first)
    elif first:
        failed = [example.model_copy(update={"source": ATTEMPTED}) for example in first.values()]
        makers[ATTEMPTED] = partial(corpus_wishes, corpus=failed, leaks=leaks, source=ATTEMPTED)
        sources = (ATTEMPTED, *sources)
    return [(source, makers[source]) for source in sources if source in makers]


async def _given_up(tasks: Collection[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Loop:
    """The walk over the wishes. Candidates go to `write` as they are judged: however many there are, a few are in memory."""

    context: Context
    pool: Pool
    engine: Granter | Cluster
    write: Callable[[Judgement], None]
    outcomes: Counter[str] = field(default_factory=Counter)
    wished: int = 0
    unmet: int = 0  # wishes that were tried to the end without a passing candidate
    given_up: int = 0  # requests that got no answer
    agreed: Counter[tuple[str, str, bool]] = field(default_factory=Counter)  # of two teachers that voted

    @property
    def judged(self) -> int:
        return self.outcomes.total()

    @property
    def tried(self) -> str:
        """Where all wishes were: what that came to."""
        return f"{ALL_TRIED}, {self.unmet} found no passing candidate" if self.unmet else ENOUGH

    async def walk(self, wishes: Wishes) -> str:
        """Writes in the wishes' order; gives the reason for stopping, empty where the next source may begin.
        Whether it is hopeless each source shows for itself; what the student failed at stops nothing."""
        self.wished += wishes.about
        ahead: deque[asyncio.Task[Granted]] = deque()
        done = 0
        before, beat = self._counted, Beat()
        try:
            while True:
                ahead += [
                    asyncio.create_task(self.engine.grant(wish))
                    for wish in islice(wishes.each, self.engine.ahead - len(ahead))
                ]
                if not ahead:
                    self.wished += done - wishes.about  # some were passed over
                    return ""
                granted = await ahead.popleft()
                self._take(granted)
                if granted.reached:  # the others under way come to their end too, and what they were given is not lost
                    for more in await asyncio.gather(*ahead):
                        self._take(more)
                    return granted.reached
                done += 1
                if beat.due or done == wishes.about:
                    self.context.say(
                        f"sample: {done}/{wishes.about} {wishes.source} wishes, "
                        f"{self.outcomes['pass']} passed of {self.judged} candidates"
                    )
                hopeless = self._hopeless(before)
                if hopeless:
                    if self.pool.waited_for:  # at an API: into the ledger
                        await asyncio.gather(*ahead)
                    if not self.judged:
                        raise TeacherError(
                            f"{self.given_up} requests, and none was answered",
                            "`workbench ledger` tells the failures; the same command asks again",
                            kind="network",
                            fatal=True,
                        )
                    if wishes.source != ATTEMPTED:
                        return hopeless
                    self.context.say(f"sample: {wishes.source}: {hopeless}; on to the task's own sources")
                    self.wished += done - wishes.about
                    return ""
        finally:
            await _given_up(ahead)

    @property
    def _counted(self) -> tuple[int, int, int]:
        return self.outcomes["pass"], self.judged, self.given_up

    def _hopeless(self, before: tuple[int, int, int]) -> str:
        """What came since then, in words, where that is too little to go on; else empty."""
        config = self.context.config.sample
        passed, judged, given_up = (now - then for now, then in zip(self._counted, before, strict=True))
        tried = judged + given_up
        if tried < config.hopeless_after or passed >= config.hopeless_yield * tried:
            return ""
        unanswered = f", {given_up} requests got no answer" if given_up else ""
        return f"hopeless: {passed} of {judged} candidates passed{unanswered}"

    def _take(self, granted: Granted) -> None:
        for item in granted.found:
            self.write(item)
            self.outcomes[item.verdict.outcome] += 1
        self.given_up += granted.given_up
        self.agreed.update(granted.agreed)
        self.unmet += not granted.met and not granted.reached
