"""A run told to people: one `Report` (model.py) rendered as HTML, Markdown, a model card and a terminal table.

    model.py      what a report shows, as frozen data; nothing here computes a score
    facts.py      what is derived from it: figures as text, ratios to the teacher, the verdict, the commands to type
    plots.py      matplotlib -> SVG that follows the reader's light or dark colours
    html.py       report.html, one file that loads nothing
    markdown.py   report.md and the model card
    table.py      the score table in a terminal

The package reads no store and runs no model: whoever calls it has measured everything already.
"""

from workbench.report.html import render_html
from workbench.report.markdown import render_card, render_markdown
from workbench.report.model import Report
from workbench.report.table import print_table

__all__ = ["Report", "print_table", "render_card", "render_html", "render_markdown"]
