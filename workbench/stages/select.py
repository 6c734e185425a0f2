"""What passed -> the shard. Recombination, duplicates, the leakage gate; every row judged, every dropped row counted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from workbench.declaration import Task
from workbench.errors import DataError
from workbench.judge import judge_cheap
from workbench.label_noise import doubts
from workbench.provenance import joined
from workbench.scoring import shuffled
from workbench.sources.recombine import recombine
from workbench.sources.values import Pools, pools_of
from workbench.stages.context import Context, read_json, read_jsonl, write_json, write_jsonl
from workbench.stages.gate import HeldOut, Inputs, Leaks, add_leaks, text_of
from workbench.stages.label import FILE as LABELLED
from workbench.stages.label import SOURCE as ASSISTANT
from workbench.teachers.build import known_as
from workbench.types import Example, Judgement, Row, Verdict

EMPTY = ""  # the label of an answer that has none, and no value
REPEATS = 3  # more of a row without values, at most: what comes too often is learned by heart
CASES = 3  # of each reason for dropping; what the report shows


class Proposal(NamedTuple):
    """A row that may enter the shard."""

    example: Example
    completion: str
    verdict: Verdict
    call: str = ""
    teacher: str = ""
    licence: str = ""
    logprob: float | None = None


def run(context: Context) -> None:
    """Writes rows.jsonl (the shard), funnel.json, and leaks.json (the held-out rows that something offered was too like).
    Raises DataError where nothing is left."""
    config = context.config.select
    seeds = context.examples("seed")
    judgements = [list(read_jsonl(file, Judgement)) for file in _judged_files(context)]
    dropped = Dropped(context.task)
    weigh = Weigher(context)
    passed = [
        proposal
        for some in judgements  # how sure one is says nothing of another
        for proposal in weigh.let_by(_sure(_passed(context.task, some), config.doubtful, dropped), dropped)
    ]
    gate = Gate(HeldOut(context), dropped)
    offered = list(gate.let_in([_judged(context, seed) for seed in seeds]))
    seeds = [proposal.example for proposal in offered]
    human = [item for item in offered if _passes(item, dropped)] if "seed" in context.task.sources else []
    taught = list(_distinct(gate.let_in(passed), config.near_duplicate, dropped))
    taught = _borne_out(context.task, seeds, taught, config.empty_margin, dropped)
    mixed: list[Proposal] = []
    if "recombine" in context.task.sources and config.recombine:
        stock = [*seeds, *(proposal.example for proposal in taught)]
        pools = _pools(context, stock)
        # human rows are what recombination is best at: they are drawn as often as all the teacher's rows together
        weighted = seeds * max(1, len(taught) // max(1, len(seeds))) + stock[len(seeds) :]
        made = recombine(context.task, weighted, pools, config.recombine, config.seed, steer=config.steer)
        # any row that these are made of, and any value in them, may be a teacher's: its terms hold for them too
        teachers = joined(item.teacher for some in judgements for item in some)
        licences = joined(item.licence for some in judgements for item in some)
        proposals = gate.let_in([_judged(context, row) for row in made])
        mixed = [proposal._replace(teacher=teachers, licence=licences) for proposal in proposals]
    mixed = [proposal for proposal in mixed if _passes(proposal, dropped)]
    kept = [*_repeated(human, config.seed_repeats), *(one for one in taught for _ in range(weigh.times(one))), *mixed]
    again = _still(context, human, taught, kept)
    kept += again
    if not kept:
        raise DataError("no row is left to train on", "look at the rejections in the report, then loosen or mend")
    rows = [_row(context, proposal) for proposal in shuffled(kept, config.seed)]
    write_jsonl(context.out / "rows.jsonl", rows)
    by_assistant = sum(proposal.example.source == ASSISTANT for proposal in taught)
    funnel = {
        "seeds": len(human),
        "from the teacher": len(taught) - by_assistant,
        **({"from the assistant": by_assistant} if "label" in context.inputs else {}),
        "recombined": len(mixed),
        "repeated": len(again),
        "rows": len(rows),
        "dropped": dict(dropped.counts),
        "dropped_cases": dropped.cases,
    }
    write_json(context.out / "funnel.json", funnel)
    for stage in [name for name in ("sample", "label") if name in context.inputs]:
        for row, ways in read_json(context.inputs[stage] / "leaks.json").items():
            add_leaks(gate.leaks, [row], ways)
    write_json(context.out / "leaks.json", gate.leaks)
    context.say(f"select: {len(rows)} rows ({', '.join(f'{v} {k}' for k, v in funnel.items() if isinstance(v, int))})")


def _judged_files(context: Context) -> Iterator[Path]:
    """The teachers' candidates, and those of an assistant."""
    yield context.inputs["sample"] / "candidates.jsonl"
    if "label" in context.inputs:
        yield context.inputs["label"] / LABELLED


def _passed(task: Task, judgements: Sequence[Judgement]) -> list[Proposal]:
    return [
        Proposal(
            item.candidate.example.model_copy(update={"target": task.output.parse(item.candidate.text)}),
            item.candidate.text,
            item.verdict,
            item.candidate.call,
            item.teacher,
            item.licence,
            item.candidate.logprob,
        )
        for item in judgements
        if item.verdict.outcome == "pass"
    ]


def _pools(context: Context, stock: Sequence[Example]) -> Pools:
    """The values to exchange: those that stand in the rows, and those that the teacher wrote for the sampling."""
    pools = pools_of(context.task.output, [example.target for example in stock])
    written = context.inputs["sample"] / "values.json"
    for slot, values in (read_json(written) if written.exists() else {}).items():
        pools[slot] = list(dict.fromkeys([*pools.get(slot, []), *values]))
    return pools


class Dropped:
    """How many were dropped for which reason, and the first few of each."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.counts: Counter[str] = Counter()
        self.cases: dict[str, list[dict[str, str]]] = {}

    def add(self, why: str, proposal: Proposal, reason: str) -> None:
        self.counts[why] += 1
        cases = self.cases.setdefault(why, [])
        if len(cases) < CASES:
            cases.append({"input": text_of(self.task, proposal.example), "text": proposal.completion, "reason": reason})


class Weigher:
    """How often rows come, by the weights of their teachers. What no call brought, but the student said itself, comes once."""

    def __init__(self, context: Context) -> None:
        given = context.config.select.weights
        self.weights = {known_as(each): given[each.model] for each in context.config.teachers if each.model in given}

    def times(self, proposal: Proposal) -> int:
        """Of 1.5 each comes once, and half of them, by their ids, once more."""
        teacher = proposal.teacher
        mine = (weight for name, weight in self.weights.items() if teacher == name or teacher.startswith(f"{name} "))
        weight = next(mine, 1.0) if proposal.call else 1.0
        return int(weight) + (int(proposal.example.id, 16) < weight % 1 * 16.0 ** len(proposal.example.id))

    def let_by(self, proposals: Sequence[Proposal], dropped: Dropped) -> list[Proposal]:
        """Those that come at all."""
        for proposal in proposals:
            if not self.times(proposal):
                dropped.add("weight", proposal, f"not all rows of {proposal.teacher} are wanted (select.weights)")
        return [proposal for proposal in proposals if self.times(proposal)]


class Gate:
    """Keeps out what is too like a dev or test row. `leaks`: the held-out rows that it met, with the ways they were met in."""

    def __init__(self, held_out: HeldOut, dropped: Dropped) -> None:
        self.held_out, self.dropped = held_out, dropped
        self.leaks: Leaks = {}

    def let_in(self, proposals: Sequence[Proposal]) -> Iterator[Proposal]:
        for proposal in proposals:
            like = self.held_out.like(proposal.example)
            if like is None:
                yield proposal
                continue
            add_leaks(self.leaks, like.rows, [like.way])
            self.dropped.add(f"like a {like.split} row ({like.way})", proposal, like.said)


def _distinct(proposals: Iterator[Proposal], threshold: float, dropped: Dropped) -> Iterator[Proposal]:
    """The first of each set of near duplicates."""
    seen = Inputs(dropped.task, threshold)
    for proposal in proposals:
        like = seen.like(proposal.example)
        if like is None:
            seen.add(text_of(dropped.task, proposal.example), proposal.example)
            yield proposal
        else:
            dropped.add("near duplicate", proposal, f"too like a row that came before it: {like}")


def _judged(context: Context, example: Example) -> Proposal:
    text = context.task.output.dump(example.target)
    return Proposal(example, text, judge_cheap(context.task, example, text))


def _passes(proposal: Proposal, dropped: Dropped) -> bool:
    if proposal.verdict.outcome == "pass":
        return True
    last = proposal.verdict.checks[-1]
    dropped.add(f"{proposal.example.source}: {last.validator}", proposal, last.reason)
    return False


def _sure(proposals: Sequence[Proposal], doubtful: float, dropped: Dropped) -> list[Proposal]:
    """Without the share of the teacher's own answers that it was least sure of. One whose sureness is not known stays."""
    known = sorted(proposal.logprob for proposal in proposals if proposal.logprob is not None)
    if not known:
        return list(proposals)
    bar = known[int(doubtful * len(known))]
    kept = []
    for proposal in proposals:
        if proposal.logprob is None or proposal.logprob >= bar:
            kept.append(proposal)
        else:
            dropped.add("doubtful", proposal, f"mean log-probability {proposal.logprob:.3f}, {bar:.3f} is asked for")
    return kept


def _borne_out(
    task: Task, seeds: Sequence[Example], proposals: Sequence[Proposal], margin: float, dropped: Dropped
) -> list[Proposal]:
    """Without the teacher's own empty answers that the other rows do not bear out."""
    rows = [*seeds, *(proposal.example for proposal in proposals)]
    labels = [_labels(task, row) for row in rows]
    found = doubts([text_of(task, row) for row in rows], labels, EMPTY, margin) if margin > -1 else []
    against = {doubt.place - len(seeds): doubt for doubt in found}
    kept = []
    for place, proposal in enumerate(proposals):
        doubt = against.get(place)
        if doubt is None or proposal.example.source == "inverse":  # that was to be empty: no guess of the teacher's
            kept.append(proposal)
        else:
            said = f"an empty answer is {doubt.sure:.0%} likely by the other rows, {doubt.other} {doubt.likely:.0%}"
            dropped.add("empty, not borne out by the other rows", proposal, said)
    return kept


def _labels(task: Task, row: Example) -> frozenset[str]:
    found = frozenset(task.output.labels(row.target))
    return found if found or task.output.slots(row.target) else frozenset({EMPTY})


def _still(
    context: Context, human: Sequence[Proposal], taught: Sequence[Proposal], kept: Sequence[Proposal]
) -> list[Proposal]:
    """Rows without a value to exchange, once more and again, until their share is that among the human rows, or each of
    them has come REPEATS times more: recombination makes none of them, and what is rare in the shard is not learned."""

    def still(proposals: Sequence[Proposal]) -> list[Proposal]:
        return [proposal for proposal in proposals if not context.task.output.slots(proposal.example.target)]

    share, stock = len(still(human)) / max(1, len(human)), [*still(human), *still(taught)]
    short = round((share * len(kept) - len(still(kept))) / (1 - share)) if share < 1 else 0
    return list(islice(cycle(stock), min(max(0, short), REPEATS * len(stock))))


def _repeated(proposals: Sequence[Proposal], times: int) -> list[Proposal]:
    return [proposal for proposal in proposals for _ in range(times)]


def _row(context: Context, proposal: Proposal) -> Row:
    example = proposal.example
    return Row(
        id=example.id,
        input=example.input,
        prompt=context.task.student_prompt(example.input),
        completion=context.task.output.student_text(example.target),
        source=example.source,
        aside=context.task.output.aside(example.target),
        call=proposal.call,
        teacher=proposal.teacher,
        licence=proposal.licence,
        verdict=proposal.verdict,
    )
