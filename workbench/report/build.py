"""A finished run -> what its report shows. Reads the stages' artifacts; computes nothing that a stage did not measure."""

import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from workbench import methods
from workbench.config import Config, Member
from workbench.declaration import Task
from workbench.machine import cores, cpu
from workbench.models import CATALOGUE
from workbench.plan import label
from workbench.provenance import licence_of
from workbench.report import model as m
from workbench.report.html import render_html
from workbench.report.markdown import render_card, render_markdown
from workbench.runs import Lock
from workbench.stages import merge
from workbench.stages.capture import ABOUT, Captures
from workbench.stages.context import read_json, read_jsonl
from workbench.stages.evaluate import Given
from workbench.stages.sample import ALL_TRIED, ENOUGH
from workbench.stages.shots import parsed
from workbench.types import Example, Judgement, Row

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "xllamacpp", "cyllama", "dspy", "openai")
MISTAKES = 12
CASES = 3
ALIKE_CHARS = 80


def build_report(task: Task, config: Config, lock: Lock, folder: Path) -> m.Report:
    """The report of one run. Raises FileNotFoundError where an artifact was deleted since."""
    art = lock.artifacts
    results = read_json(art["evaluate"] / "results.json")
    funnel = read_json(art["sample"] / "funnel.json")
    selected = read_json(art["select"] / "funnel.json")
    rows = list(read_jsonl(art["select"] / "rows.jsonl", Row))
    judged = list(read_jsonl(art["sample"] / "candidates.jsonl", Judgement))
    shots = read_json(art["shots"] / "shots.json")
    student_known = CATALOGUE.get(config.student.model)
    student_licence = student_known.licence if student_known else "see the model's own card"
    return m.Report(
        task=task.name,
        title=task.title,
        created=datetime.now(UTC),
        command=lock.command,
        profile=config.profile,
        machine=m.Machine(cpu=cpu(), cores=cores()),
        versions=_versions(),
        metrics=tuple(results["metrics"]),
        entrants=tuple(_entrant(item) for item in results["entrants"]),
        versus=_versus(results),
        leaks=_leaks(task, results, art),
        funnel=_funnel(funnel, selected),
        rejections=(*_rejections(judged), *_drops(selected)),
        rounds=_rounds(lock),
        train_curve=_train_curve(art["train"]),
        dev_curve=_dev_curve(art["train"], art["merge"]),
        quants=_quants(read_json(art["export"] / "export.json")),
        mistakes=_mistakes(task, results, art),
        teacher=m.Teacher(
            name=config.teacher.model,
            licence=licence_of(config.teacher),
            terms="; ".join(dict.fromkeys(policy.sentence for policy in lock.terms)),
            shots=_shots(shots, min(config.shots.rows, sum(e.split == "dev" for e in _examples(art)))),
            calls=funnel.get("calls", 0),
            tokens=funnel.get("tokens", 0),
            pool=tuple(_member(each) for each in config.pool.teachers),
            agreement=tuple(
                f"{pair} agree on {same} of {both} inputs" for pair, (same, both) in funnel.get("agreement", {}).items()
            ),
        ),
        student=m.Student(
            name=config.student.model,
            licence=student_licence,
            learned=_learned(config, lock),
            merged=merge.told(art["merge"]),
        ),
        sources=tuple(
            m.Source(
                name=name, rows=count, licence=", ".join(sorted({r.licence for r in rows if r.source == name} - {""}))
            )
            for name, count in Counter(row.source for row in rows).items()
        ),
        caveats=(
            *_alike([texts[results["chosen"]] for _, texts in _given(art)]),
            *_caveats(config, results, funnel, sum(e.split == "test" for e in _examples(art))),
        ),
        expert=m.Expert(path=str(folder / "expert"), grammar="grammar.gbnf", prompt=rows[0].prompt),
    )


def write_report(report: m.Report, folder: Path) -> None:
    """report.html, report.md, and the card into the expert's folder."""
    (folder / "report.html").write_text(render_html(report), encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / "expert" / "README.md").write_text(render_card(report), encoding="utf-8")


def _entrant(item: dict[str, Any]) -> m.Entrant:
    notes = []
    if item.get("unanswered"):
        notes.append(f"{item['unanswered']} rows not answered")
    if item.get("in_torch"):
        notes.append("answered in torch in batches, timed alone in llama.cpp")
    return m.Entrant(
        key=item["key"],
        label=item["label"],
        rows=item["rows"],
        scores={name: m.Score(**score) for name, score in item["scores"].items()},
        file_bytes=item.get("file_bytes"),
        prompt_tokens=item["prompt_tokens"],
        seconds=item.get("seconds"),
        shipped=item.get("shipped", False),
        note="; ".join(notes),
    )


def _rounds(lock: Lock) -> tuple[m.Round, ...]:
    """Each with what its shipped file has on dev; nothing where there was one alone."""
    found: list[m.Round] = []
    while (entry := lock.exactly(label("export", len(found) + 1))) is not None:
        number = len(found) + 1
        sampled, selected = (lock.exactly(label(name, number)) for name in ("sample", "select"))
        assert sampled is not None and selected is not None, "they come before"
        made = read_json(Path(entry.path) / "export.json")
        found.append(
            m.Round(
                number=number,
                candidates=read_json(Path(sampled.path) / "funnel.json").get("candidates", 0),
                rows=read_json(Path(selected.path) / "funnel.json")["rows"],
                dev_exact=next(item["dev_exact"] for item in made["files"] if item["name"] == made["chosen"]),
                shipped=number == lock.kept,
            )
        )
    return tuple(found) if len(found) > 1 else ()


def _learned(config: Config, lock: Lock) -> str:
    art = lock.artifacts
    distil = merge.as_kept(config.distil, art["merge"])
    method = methods.named(distil.method).of_round(lock.kept)
    if "capture" not in art:
        told = method.told(distil)
        return "" if told == methods.Sft.title else told
    by = Captures.model_validate_json((art["capture"] / ABOUT).read_text(encoding="utf-8")).by
    read = ", ".join(
        f"{each.teacher} (its {each.k} likeliest, {each.rows:,} rows{f', weight {each.weight:g}' if len(by) > 1 else ''})"
        for each in by
    )
    aligned = read_json(art["train"] / "summary.json")["aligned"]
    return (
        f"{method.told(distil)}: {read}, at {aligned:.0%} of their places, by {method.kind(distil)} at temperature "
        f"{distil.temperature:g} with weight {distil.weight:g}"
    )


def _member(teacher: Member) -> str:
    """A teacher of the pool, and what it was there for."""
    roles = [
        *(f"for {what}" for what in (*teacher.sources, *teacher.groups)),
        *(["as a fallback"] if teacher.fallback else []),
        *(["with a vote"] if teacher.votes else []),
        *([f"reading along, with weight {teacher.reads:g}"] if teacher.reads else []),
    ]
    return f"{teacher.model}, {licence_of(teacher)}, {', '.join(roles)}"


def _shots(shots: dict[str, Any], rows: int) -> str:
    """The block that the teacher was shown for its labels, and the others that were tried."""
    exact = {mode: scores["exact"]["value"] for mode, scores in shots["tried"].items()}
    kept = shots["mode"]
    if kept not in exact:
        return str(kept)
    others = "".join(f", {mode} {value:.1f}" for mode, value in exact.items() if mode != kept)
    return f"{kept} {exact[kept]:.1f} % exact on {rows} dev rows{others}"


def _versus(results: dict[str, Any]) -> m.Versus:
    paired = results["versus_teacher"]
    p, ours, theirs = paired["p"], paired["only_a"], paired["only_b"]
    if p < 0.05:
        said = "better" if ours > theirs else "worse"
        sentence = (
            f"The shipped file is {said} than the teacher: right alone on {ours} of the rows, the teacher on {theirs}."
        )
    else:
        sentence = (
            f"No difference is shown: the shipped file is right alone on {ours} of the rows, the teacher on {theirs}."
        )
    return m.Versus(
        both_right=paired["both"],
        only_shipped=ours,
        only_teacher=theirs,
        both_wrong=paired["neither"],
        p_value=p,
        sentence=sentence,
    )


def _funnel(sample: dict[str, Any], select: dict[str, Any]) -> tuple[m.Step, ...]:
    steps = [
        ("wishes", sample["wishes"]),
        ("candidates", sample.get("candidates", 0)),
        ("passed the validators", sample.get("passed", 0)),
        ("kept from the teacher", select["from the teacher"]),
        *([("kept from the assistant", select["from the assistant"])] if "from the assistant" in select else []),
        ("recombined rows added", select["recombined"]),
        ("rows in the shard", select["rows"]),
    ]
    return tuple(m.Step(label=label, count=count) for label, count in steps)


def _rejections(judged: list[Judgement]) -> tuple[m.Rejection, ...]:
    by: dict[tuple[str, str], list[tuple[Judgement, str]]] = defaultdict(list)
    for item in judged:
        for check in item.verdict.checks:
            if check.outcome != "pass":
                by[check.validator, check.outcome].append((item, check.reason))
    return tuple(
        m.Rejection(
            validator=name,
            kind="fail" if outcome == "fail" else "error",
            count=len(items),
            share=100 * len(items) / len(judged),
            cases=tuple(
                m.Case(input=_text(item.candidate.example), text=item.candidate.text, reason=reason)
                for item, reason in items[:CASES]
            ),
        )
        for (name, outcome), items in sorted(by.items(), key=lambda pair: -len(pair[1]))
    )


def _drops(select: dict[str, Any]) -> tuple[m.Rejection, ...]:
    """What passed the validators and did not enter the shard, and recombinations that no validator would pass."""
    proposed = select["rows"] + sum(select["dropped"].values())
    return tuple(
        m.Rejection(
            validator=why,
            count=count,
            share=100 * count / proposed,
            cases=tuple(m.Case(**case) for case in select["dropped_cases"][why]),
        )
        for why, count in sorted(select["dropped"].items(), key=lambda pair: -pair[1])
    )


def _history(train: Path) -> list[dict[str, Any]]:
    import json

    path = train / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _train_curve(train: Path) -> tuple[m.TrainPoint, ...]:
    return tuple(
        m.TrainPoint(step=line["step"], tokens=line["tokens"], loss=line["loss"])
        for line in _history(train)
        if line.get("loss") is not None
    )


def _dev_curve(train: Path, merged: Path) -> tuple[m.DevPoint, ...]:
    summary = read_json(train / "summary.json")
    best = summary["best_step"] if merge.kept_rounded(merged) else summary.get("unrounded_step", summary["best_step"])
    return tuple(
        m.DevPoint(step=line["step"], exact=100 * line["dev_exact"], loss=line["dev_loss"], chosen=line["step"] == best)
        for line in _history(train)
        if line.get("dev_exact") is not None
    )


def _quants(export: dict[str, Any]) -> tuple[m.Quant, ...]:
    return tuple(
        m.Quant(name=f["name"], bytes=f["size_bytes"], dev_exact=f["dev_exact"], chosen=f["chosen"], note=f["note"])
        for f in export["files"]
    )


def _mistakes(task: Task, results: dict[str, Any], art: dict[str, Path]) -> tuple[m.Mistake, ...]:
    """Rows the shipped file got wrong; those that the teacher got right come first."""
    found = []
    for example, texts in _given(art):
        shipped = texts.get(results["chosen"])
        if shipped is None or _right(task, shipped, example):
            continue
        found.append(
            m.Mistake(
                input=_text(example),
                target=task.output.student_text(example.target),
                shipped=shipped,
                teacher=texts.get("teacher"),
                teacher_right=_right(task, texts.get("teacher"), example),
            )
        )
    return tuple(sorted(found, key=lambda mistake: not mistake.teacher_right)[:MISTAKES])


def _leaks(task: Task, results: dict[str, Any], art: dict[str, Path]) -> str:
    """Exact match with and without the test rows that a row offered for training was too like; none of those went in."""
    path = art["select"] / "leaks.json"
    leaks = read_json(path) if path.exists() else {}  # runs of before did not look
    given = _given(art)
    clean = [(example, texts) for example, texts in given if example.id not in leaks]
    if len(clean) == len(given):
        return ""
    if not clean:
        return f"Rows too like each of the {len(given)} test rows were offered for training and kept out."

    def exact(entrant: str) -> str:
        right = sum(_right(task, texts.get(entrant), example) for example, texts in clean)
        return f"{100 * right / len(clean):.1f}"

    return (
        f"Rows too like {len(given) - len(clean)} of the {len(given)} test rows were offered for training and kept out. "
        f"Without these test rows: shipped file {exact(results['chosen'])} % exact, teacher {exact('teacher')} %."
    )


def _given(art: dict[str, Path]) -> list[tuple[Example, dict[str, str]]]:
    """Each test row that was asked, with every entrant's answer."""
    given: dict[str, dict[str, str]] = defaultdict(dict)
    for item in read_jsonl(art["evaluate"] / "answers.jsonl", Given):
        given[item.example][item.entrant] = item.text
    examples = {example.id: example for example in _examples(art)}
    return [(examples[key], texts) for key, texts in given.items()]


def _right(task: Task, text: str | None, example: Example) -> bool:
    return text is not None and task.output.tally(parsed(task.output, text), example.target)["exact"][0] == 1.0


def _examples(art: dict[str, Path]) -> list[Example]:
    return list(read_jsonl(art["examples"] / "examples.jsonl", Example))


def _alike(answers: Sequence[str]) -> tuple[str, ...]:
    """What is to be said of a file that gives one answer to all."""
    if len(answers) < 2 or len(set(answers)) > 1:
        return ()
    text = answers[0] if len(answers[0]) <= ALIKE_CHARS else f"{answers[0][:ALIKE_CHARS]}…"
    return (f"The shipped file answers {text} to all {len(answers)} test rows: it has to be trained for longer.",)


def _caveats(config: Config, results: dict[str, Any], funnel: dict[str, Any], tests: int) -> tuple[str, ...]:
    told = []
    base = next((item for item in results["entrants"] if item["key"] == "base"), None)
    shipped = next(item for item in results["entrants"] if item.get("shipped"))
    if shipped["rows"] < tests:
        told.append(f"Scored on {shipped['rows']} of {tests} test rows.")
    if base and base["rows"] < shipped["rows"]:
        told.append(f"The base student was scored on the first {base['rows']} rows only.")
    if config.teacher.base_url or config.teacher.model.startswith("hf:"):
        told.append("The teacher's seconds are of requests sent side by side, not of one alone.")
    if not funnel["stopped"].startswith((ENOUGH, ALL_TRIED)):
        told.append(f"Sampling stopped early: {funnel['stopped']}.")
    if funnel.get("given_up"):  # runs of before did not count them
        told.append(f"{funnel['given_up']} of the sampling's requests got no answer.")
    return tuple(told)


def _text(example: Example) -> str:
    return "\n".join(str(value) for value in example.input.values() if value is not None)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
