"""What is derived from a `Report`: figures as text, ratios to the teacher, the verdict, the commands to type.

All renderings share these, so that the page, the card and the terminal never tell one run in two ways.
"""

import difflib
import re
import shlex
from typing import NamedTuple

from workbench.report.model import Entrant, Report, Score

NONE = "–"
SIGNIFICANT_P = 0.05
UNLIKE = 0.3  # texts that share less are not marked: all of it would be
DIFF_CHARS = 4000  # longer texts are shown without marks: difflib is quadratic


class Snippet(NamedTuple):
    """Code to copy, with the language for its highlighting."""

    title: str
    language: str
    code: str
    note: str = ""


class Piece(NamedTuple):
    """A stretch of text, `changed` where it differs from what it is compared with."""

    text: str
    changed: bool


def size_text(size_bytes: int | None) -> str:
    """`105 MB`, `1.12 GB`: decimal units, as file managers and download pages show them."""
    if size_bytes is None:
        return NONE
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            value = size_bytes / scale
            return f"{value:.2f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{size_bytes} B"


def seconds_text(seconds: float | None) -> str:
    """`0.20 s`, `14.2 s`, `12 min`, `3.4 h`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def tokens_text(tokens: float | None) -> str:
    return NONE if tokens is None else f"{tokens:,.0f}"


def interval_text(score: Score) -> str:
    return f"{score.low:.1f} to {score.high:.1f}"


def score_text(score: Score | None) -> str:
    """`68.4 (64.9 to 71.8)`."""
    return NONE if score is None else f"{score.value:.1f} ({interval_text(score)})"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def metric_text(metric: str) -> str:
    """`argument_f1` -> `argument F1`."""
    return re.sub(r"\bf1\b", "F1", metric.replace("_", " "))


def ratio_text(of_teacher: float | None, of_entrant: float | None, less: str, more: str) -> str:
    """`11x smaller`; empty where either figure is missing or the two are within 5 % of each other."""
    if not of_teacher or not of_entrant:
        return ""
    ratio, word = (of_teacher / of_entrant, less) if of_teacher >= of_entrant else (of_entrant / of_teacher, more)
    if ratio < 1.05:
        return ""
    return f"{ratio:,.0f}x {word}" if ratio >= 9.95 else f"{ratio:.1f}".removesuffix(".0") + f"x {word}"


class Ratios(NamedTuple):
    """The shipped entrant against the teacher, each a phrase or empty."""

    size: str = ""
    prompt: str = ""
    speed: str = ""


def ratios(report: Report, entrant: Entrant) -> Ratios:
    teacher = report.entrant("teacher")
    if teacher is None or teacher.key == entrant.key:
        return Ratios()
    return Ratios(
        size=ratio_text(teacher.file_bytes, entrant.file_bytes, "smaller", "larger"),
        prompt=ratio_text(teacher.prompt_tokens, entrant.prompt_tokens, "shorter", "longer"),
        speed=ratio_text(teacher.seconds, entrant.seconds, "faster", "slower"),
    )


def _against_teacher(report: Report, metric: str, score: Score) -> str:
    """`, 38.4 points above its teacher`, or nothing where the teacher has no such score."""
    teacher = report.entrant("teacher")
    theirs = teacher.scores.get(metric) if teacher else None
    if teacher is None or theirs is None or report.shipped is None:
        return ", with no teacher score to compare it with"
    gap = round(score.value, 1) - round(theirs.value, 1)
    rows = "" if teacher.rows == report.shipped.rows else f" (which was scored on {teacher.rows:,} rows)"
    said = "level with" if abs(gap) < 0.05 else f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    chance = ""
    if abs(gap) >= 0.05 and report.versus and report.versus.p_value >= SIGNIFICANT_P:
        chance = ", a gap that these rows cannot tell from chance"
    return f", {said} its teacher{rows}{chance}"


def verdict(report: Report) -> str:
    """The run in one sentence: the score with its interval, the gap to the teacher, what it costs to run."""
    entrant, metric = report.shipped, report.metrics[0]
    if entrant is None:
        return "This run shipped no file."
    score = entrant.scores.get(metric)
    if score is None:
        return f"{entrant.label} was shipped without a score for {metric_text(metric)}."
    r = ratios(report, entrant)
    gains = [part for part in (r.size, r.speed, f"its prompt is {r.prompt}" if r.prompt else "") if part]
    listed = " and ".join((", ".join(gains[:-1]), gains[-1]) if len(gains) > 1 else gains)
    lead = "; " if gains and gains[0].startswith("its") else "; it is "
    return (
        f"{entrant.label} scores {score.value:.1f} % {metric_text(metric)} (95 % interval {interval_text(score)}) on "
        f"{entrant.rows:,} held-out rows{_against_teacher(report, metric, score)}{lead + listed if gains else ''}."
    )


def columns(report: Report) -> list[str]:
    """Headers of the score table as plain text; `cells` has the same length."""
    notes = ["note"] if any(e.note for e in report.entrants) else []
    return [
        "model",
        *(f"{metric_text(m)} %" for m in report.metrics),
        "size",
        "prompt tokens",
        "seconds",
        "rows",
        *notes,
    ]


def cells(report: Report, entrant: Entrant) -> list[str]:
    """One row of the score table as plain text; the shipped row carries its ratios to the teacher."""
    r = ratios(report, entrant) if entrant.shipped else Ratios()

    def with_ratio(text: str, ratio: str) -> str:
        return f"{text} ({ratio})" if ratio else text

    row = [
        entrant.label + (" (shipped)" if entrant.shipped else ""),
        *(score_text(entrant.scores.get(m)) for m in report.metrics),
        with_ratio(size_text(entrant.file_bytes), r.size),
        with_ratio(tokens_text(entrant.prompt_tokens), r.prompt),
        with_ratio(seconds_text(entrant.seconds), r.speed),
        f"{entrant.rows:,}",
    ]
    return row + ([entrant.note] if any(e.note for e in report.entrants) else [])


def pieces(text: str, target: str) -> list[Piece]:
    """`text` cut into stretches, marked where its words differ from `target`."""
    if len(text) > DIFF_CHARS or len(target) > DIFF_CHARS:
        return [Piece(text, False)]
    a, b = re.findall(r"\w+|\s+|[^\w\s]", target), re.findall(r"\w+|\s+|[^\w\s]", text)
    match = difflib.SequenceMatcher(a=a, b=b, autojunk=False)
    if b and match.ratio() < UNLIKE:
        return [Piece(text, False)]
    return [Piece("".join(b[j1:j2]), op != "equal") for op, _, _, j1, j2 in match.get_opcodes() if j2 > j1]


def snippets(report: Report, folder: str | None = None) -> list[Snippet]:
    """How to run the expert; `folder` replaces its path (a card sits inside of the folder). Empty without an expert."""
    expert = report.expert
    if expert is None:
        return []
    at = (expert.path if folder is None else folder).rstrip("/") or "/"
    name = re.sub(r"[^a-z0-9._-]+", "-", report.task.lower()).strip("-._") or "expert"
    grammar = f" \\\n    --grammar-file {shlex.quote(f'{at}/{expert.grammar}')}" if expert.grammar else ""
    server = f"llama-server --jinja --port 8080 \\\n    -m {shlex.quote(f'{at}/{expert.file}')}{grammar}"
    ollama = (
        f"ollama create {name} -f {shlex.quote(f'{at}/{expert.modelfile}')}\n"
        f"ollama run {name} {shlex.quote(expert.prompt)}"
    )
    client = (
        "from openai import OpenAI\n\n"
        'client = OpenAI(base_url="http://localhost:8080/v1", api_key="none")\n'
        "reply = client.chat.completions.create(\n"
        f'    model="{name}",\n'
        f'    messages=[{{"role": "user", "content": {expert.prompt!r}}}],\n'
        "    temperature=0,\n)\n"
        "print(reply.choices[0].message.content)"
    )
    no_grammar = "Ollama does not read the grammar."
    free = "The grammar forbids what is no answer; the scores are those of the file without it."
    return [
        Snippet("llama-server", "sh", server, free if expert.grammar else ""),
        Snippet("Python, against llama-server", "python", client, "Needs `pip install openai` and the server above."),
        Snippet("Ollama", "sh", ollama, no_grammar if expert.grammar else ""),
    ]
