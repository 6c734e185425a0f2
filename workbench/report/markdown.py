"""report.md and the model card. Text from models and data is escaped, so that a pipe or a tag in it breaks nothing."""

import json
import re

from workbench.report import facts
from workbench.report.html import environment
from workbench.report.model import Report

# Licence ids that the Hugging Face hub knows and small open models use; any other is named as `other`.
HUB_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "openrail", "unlicense",
}  # fmt: skip


def text(value: str) -> str:
    """One line of Markdown that shows `value` as it is, also inside of a table."""
    line = " ".join(value.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", line)


def code(value: str) -> str:
    """A code span on one line, fenced with more backticks than it holds; pipes are escaped for tables."""
    line = " ".join(value.split()).replace("|", r"\|") or " "
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(value: str, language: str = "") -> str:
    """A fenced block, with a fence longer than any inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", value)), default=0))
    return f"{fence}{language}\n{value}\n{fence}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells that are Markdown already; figures to the right, names and notes to the left."""
    rule = ["---" if i == 0 or name == "note" else "---:" for i, name in enumerate(header)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def score_table(report: Report) -> str:
    """The table of all entrants, the shipped row in bold."""
    rows = []
    for entrant in report.entrants:
        row = [text(cell) for cell in facts.cells(report, entrant)]
        rows.append([f"**{row[0]}**", *row[1:]] if entrant.shipped else row)
    return table([text(name) for name in facts.columns(report)], rows)


def front_matter(report: Report) -> str:
    """The YAML head that the hub reads. Strings are written as JSON, which is YAML too."""
    licence = report.student.licence.lower()
    known = licence in HUB_LICENCES
    lines = [f"license: {licence if known else 'other'}"]
    if not known:
        lines.append(f"license_name: {json.dumps(report.student.licence)}")
    tags = ["gguf", "llama.cpp", "distillation", report.task]
    lines += [
        f"base_model: {json.dumps(report.student.hub or report.student.name)}",
        "base_model_relation: finetune",
        "pipeline_tag: text-generation",
        "library_name: gguf",
        "tags:",
        *(f"  - {json.dumps(tag)}" for tag in tags),
    ]
    return "\n".join(["---", *lines, "---"])


def _render(template: str, report: Report, folder: str | None) -> str:
    env = environment(autoescape=False)
    env.filters.update(text=text, code=code)
    return env.get_template(template).render(
        r=report, verdict=text(facts.verdict(report)), scores=score_table(report), table=table, block=block,
        snippets=facts.snippets(report, folder), front_matter=front_matter(report),
    )  # fmt: skip


def render_markdown(report: Report) -> str:
    """report.md: what report.html says, without its pictures."""
    return _render("report.md.j2", report, None)


def render_card(report: Report) -> str:
    """README.md of the expert folder: a model card with the hub's YAML head. Its commands are run inside the folder."""
    return _render("card.md.j2", report, ".")
