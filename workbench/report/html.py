"""report.html: one file with everything inside. It has no script, loads nothing, and its own policy header says so."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workbench.report import facts, plots
from workbench.report.model import Report

HERE = Path(__file__).parent


def environment(autoescape: bool) -> Environment:
    """The templates of this folder; a name that is not passed is an error, not an empty string."""
    env = Environment(
        loader=FileSystemLoader(HERE), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    env.filters.update(
        size=facts.size_text, seconds=facts.seconds_text, tokens=facts.tokens_text, interval=facts.interval_text,
        metric=facts.metric_text, p=facts.p_text,
    )  # fmt: skip
    return env


def render_html(report: Report) -> str:
    """The whole report as one HTML page, to be written as UTF-8. All of the report's text is escaped."""
    svgs = {
        "loss": plots.loss_svg(report.train_curve, report.dev_curve),
        "dev": plots.dev_svg(report.dev_curve),
        "quants": plots.quant_svg(report.quants),
    }
    return (
        environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            r=report,
            verdict=facts.verdict(report),
            ratios=facts.ratios(report, report.shipped) if report.shipped else facts.Ratios(),
            widest=max((step.count for step in report.funnel), default=0) or 1,
            snippets=facts.snippets(report),
            pieces=facts.pieces,
            css=Markup((HERE / "report.css").read_text(encoding="utf-8")),  # ours
            svgs={name: Markup(svg) for name, svg in svgs.items()},  # matplotlib escapes the labels
        )
    )
