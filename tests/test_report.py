"""The report of a run: what it says, that nothing in it can break out, and that it loads nothing from anywhere."""

import io
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError
from rich.console import Console

from workbench.report import Report, facts, markdown, print_table, render_card, render_html, render_markdown
from workbench.report import model as m

EVIL = "<script>alert('x')</script> | `a` & <img src=http://evil.example/x.png onerror=alert(1)>"


def scores(exact: float, name: float, f1: float) -> dict[str, m.Score]:
    values = {"exact": exact, "name": name, "argument_f1": f1}
    return {k: m.Score(value=v, low=max(0, v - 3.5), high=min(100, v + 3.4)) for k, v in values.items()}


def sample(evil: str = "remind me to call Ann <3 tomorrow") -> Report:
    """A report of a full run; `evil` is placed wherever text comes from data or models."""
    timer = '{"name": "set_timer", "arguments": {"minutes": 10, "label": "tea"}}'
    wrong = '{"name": "set_timer", "arguments": {"minutes": 12, "label": null}}'
    case = m.Case(input=evil, text=f"Sure! {timer} {evil}", reason=f"not JSON: starts with 'Sure' {evil}")
    entrants = (
        m.Entrant(
            key="base", label="SmolLM2-135M, untrained", file_bytes=98_362_432, prompt_tokens=423, seconds=0.91,
            rows=700, scores=scores(0.4, 6.1, 2.0),
        ),
        m.Entrant(
            key="teacher", label="Qwen2.5-Coder-1.5B, few-shot", file_bytes=1_117_320_768, prompt_tokens=1286.4,
            seconds=1.41, rows=700, scores=scores(29.9, 94.0, 60.2), note=f"12 shots of the voted function {evil}",
        ),
        m.Entrant(key="merged", label="bf16", file_bytes=269_000_000, rows=700, scores=scores(69.1, 97.6, 84.4)),
        m.Entrant(
            key="Q8_0", label="Student Q8_0", file_bytes=145_000_000, prompt_tokens=19.2, seconds=0.26, rows=700,
            scores=scores(68.4, 97.4, 84.0),
        ),
        m.Entrant(
            key="Q4_K_M", label="Student Q4_K_M", file_bytes=105_000_000, prompt_tokens=19.2, seconds=0.2, rows=700,
            scores=scores(63.4, 96.9, 81.2), shipped=True,
        ),
    )  # fmt: skip
    return Report(
        task="phone_actions",
        title="Turn one spoken request into the phone functions it asks for",
        created=datetime(2025, 11, 3, 14, 5, tzinfo=UTC),
        command="workbench run phone_actions --profile standard",
        profile="standard",
        machine=m.Machine(cpu="AMD EPYC 7B13", cores=2),
        versions={"workbench": "0.1.0", "torch": "2.9.1", "transformers": "5.10.0", "llama.cpp": "b11549"},
        metrics=("exact", "name", "argument_f1"),
        entrants=entrants,
        versus=m.Versus(
            both_right=180, only_shipped=264, only_teacher=29, both_wrong=227, p_value=1e-12,
            sentence="Where the two differ, the shipped file is right 264 times and the teacher 29 times.",
        ),
        leaks=f"Rows too like 2 of the 700 test rows were offered for training and kept out. {evil}",
        funnel=(
            m.Step(label="examples", count=1000), m.Step(label="candidates", count=4000),
            m.Step(label="passed", count=2871), m.Step(label="after removing near copies", count=1422),
            m.Step(label="kept for training", count=940),
        ),
        rejections=(
            m.Rejection(validator="grounded", count=702, share=17.6, cases=(case,) * 4),
            m.Rejection(validator="schema", count=371, share=9.3, cases=(case,)),
            m.Rejection(validator="round_trip", count=48, share=1.2, cases=(case, case)),
            m.Rejection(validator="round_trip", count=8, share=0.2, cases=(case,), kind="error"),
        ),
        train_curve=tuple(
            m.TrainPoint(step=i, tokens=i * 2100, loss=0.25 + 2.4 / (1 + i / 25) + 0.09 * ((i * 7919) % 13 - 6) / 6)
            for i in range(1, 301)
        ),
        dev_curve=tuple(
            m.DevPoint(step=s, exact=e, loss=v, chosen=s == 250)
            for s, e, v in [(50, 22, 0.9), (100, 47, 0.62), (150, 58, 0.5), (200, 64, 0.46), (250, 67, 0.44)]
        ),
        quants=(
            m.Quant(name="Q8_0", bytes=145_000_000, dev_exact=67.5),
            m.Quant(name="Q5_1", bytes=112_000_000, dev_exact=58),
            m.Quant(name="Q4_K_M", bytes=105_000_000, dev_exact=63.0, chosen=True, note="smallest near the best"),
            m.Quant(name="IQ4_NL", bytes=92_000_000, dev_exact=48, note="importance matrix from the task's own rows"),
            m.Quant(name="Q4_0", bytes=92_000_000, dev_exact=45.9),
            m.Quant(name="Q4_1 & <b>imatrix</b>", bytes=98_000_000, dev_exact=0, note=f"loads, is never right {evil}"),
            m.Quant(name="Q2_K", bytes=88_000_000, note="does not load"),
        ),
        mistakes=(
            m.Mistake(input="tea for ten minutes", target=timer, shipped=wrong, teacher=timer, teacher_right=True),
            m.Mistake(input=evil, target=timer, shipped=wrong + evil, teacher=f"I cannot do that. {evil}"),
            m.Mistake(input="wake me in an hour", target='{"minutes": 90}', shipped="", teacher='{"minutes": 60}'),
        ),
        teacher=m.Teacher(
            name="qwen2.5-coder-1.5b-instruct", licence="Apache-2.0",
            terms=f"openai, training forbidden {evil}; accepted by ann",
            shots="nearest function, fixed order", calls=5210, tokens=2_480_112, seconds=4012,
        ),
        student=m.Student(
            name="smollm2-135m-instruct", licence="Apache-2.0", hub="HuggingFaceTB/SmolLM2-135M-Instruct"
        ),
        sources=(m.Source(name="human", rows=84, licence="CC0-1.0"), m.Source(name="inverse", rows=856)),
        caveats=("No second training seed was run.", f"Prompts in other languages were not tested. {evil}"),
        expert=m.Expert(path="runs/phone_actions/latest/expert", grammar="grammar.gbnf", prompt=f"it's late {evil}"),
    )  # fmt: skip


def bare() -> Report:
    """What the quickest run has: no teacher, no quants, no curves, nothing scored."""
    return Report(
        task="t", title="A task", created=datetime(2025, 1, 2, tzinfo=UTC), command="workbench run t --quick",
        profile="quick", machine=m.Machine(cpu="x", cores=1), metrics=("exact", "field_accuracy"),
        student=m.Student(name="s", licence="My Licence"),
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and visible text, and checks that tags close in order."""

    VOID = frozenset({"meta", "link", "br", "img", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open[-1:]:
            self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def columns_of(table_line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", table_line)) - 1


def tables(text: str) -> list[list[str]]:
    """Blocks of adjacent lines that start with a pipe."""
    return [block.splitlines() for block in re.findall(r"(?m)(?:^\|.*\n)+", text)]


def test_html_says_what_a_reader_looks_for() -> None:
    text = " ".join(read(render_html(sample())).text.split())
    for said in (
        "Turn one spoken request", "63.4", "59.9 to 66.8", "105 MB", "11x smaller", "7x faster", "67x shorter",
        "1.12 GB", "33.5 points above its teacher", "both right 180", "p < 0.001", "4,000", "72 %", "grounded",
        "17.6 %", "crashed", "not scored", "tea for ten minutes", "wrong too", "Apache-2.0", "5,210",
        "No second training seed", "llama-server", "ollama create phone_actions", "from openai import OpenAI",
        "2 cores", "2025-11-03 14:05 UTC",
    ):  # fmt: skip
        assert said in text, said
    assert text.index("argument F1") < text.index("scores 63.4 % exact") < text.index("From examples")


def test_html_escapes_what_comes_from_data() -> None:
    calm, evil = read(render_html(sample("hello"))), read(render_html(sample(EVIL)))
    strip = [tag for tag in evil.tags if tag != "mark"]
    assert strip == [tag for tag in calm.tags if tag != "mark"]  # the text added no element
    assert not {"script", "img", "iframe", "object"} & set(evil.tags)
    assert "alert('x')" in evil.text


def test_html_loads_nothing() -> None:
    html = render_html(sample(EVIL))
    reader = read(html)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in {"src", "href", "xlink:href", "action", "data", "srcset"}:
            assert value.startswith("#") or value == "data:,", (tag, name, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_plots_follow_the_page_and_have_names() -> None:
    html = render_html(sample())
    assert html.count('role="img"') == 3
    assert html.count("<title") == 4
    assert "#010101" not in html
    assert "var(--accent)" in html
    assert render_html(sample()) == html  # same run, same bytes


def test_an_empty_report_renders_everywhere() -> None:
    report = bare()
    html, text, card = render_html(report), render_markdown(report), render_card(report)
    assert "<svg" not in html
    assert "Nothing was scored" in read(html).text
    assert "none in this run" in html
    assert "This run shipped no file." in text
    assert 'license: other\nlicense_name: "My Licence"' in card
    print_table(report, Console(file=io.StringIO()))
    alone = m.Entrant(key="merged", label="unscored", rows=0, shipped=True)
    for render in (render_html, render_markdown, render_card):
        assert "without a score" in render(report.model_copy(update={"entrants": (alone,)}))


@pytest.mark.parametrize("render", [render_markdown, render_card])
def test_markdown_tables_have_equal_columns(render: object) -> None:
    assert callable(render)
    found = tables(render(sample(EVIL)))
    assert found
    for table in found:
        assert len({columns_of(line) for line in table}) == 1, table
    assert columns_of(found[0][0]) == len(facts.columns(sample()))


def test_the_terms_of_the_teacher_stand_beside_its_licence() -> None:
    said = "openai, training forbidden hello; accepted by ann"
    for text in (
        read(render_html(sample("hello"))).text,
        render_markdown(sample("hello")),
        render_card(sample("hello")),
    ):
        assert said in text
        assert text.index("Apache-2.0") < text.index(said)
    assert "Terms of the teacher" not in render_card(
        sample().model_copy(update={"teacher": m.Teacher(name="t", licence="MIT")})
    )


def test_markdown_escapes_tags_outside_of_code() -> None:
    for text in (render_markdown(sample(EVIL)), render_card(sample(EVIL))):
        outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$|(`+)(?!`).*?(?<!`)\2(?!`)", "", text)
        assert "<script" not in outside
        assert "<img" not in outside
    assert markdown.code("a `` b | c") == r"```a `` b \| c```"
    assert markdown.block("```\nx\n```").startswith("````\n")


def test_card_has_the_head_that_the_hub_reads() -> None:
    head = render_card(sample()).split("---\n")[1]
    base = 'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"'
    for line in ("license: apache-2.0", base, "pipeline_tag: text-generation", '  - "gguf"'):
        assert line in head.splitlines()
    assert "-m ./model.gguf" in render_card(sample())


def test_terminal_table() -> None:
    out = io.StringIO()
    print_table(sample("[red]x[/nope]"), Console(file=out, width=110))
    printed = out.getvalue()
    for said in ("shipped", "63.4", "59.9–66.8", "11x", "argument", "[red]x[/nope]"):
        assert said in printed
    narrow = io.StringIO()
    print_table(sample(), Console(file=narrow, width=80))
    assert max(map(len, narrow.getvalue().splitlines())) <= 80
    assert "93.4–100.0" in narrow.getvalue()
    assert "0.20 s" in narrow.getvalue()


def test_verdict_is_honest() -> None:
    report = sample()
    assert facts.verdict(report) == (
        "Student Q4_K_M scores 63.4 % exact (95 % interval 59.9 to 66.8) on 700 held-out rows, 33.5 points above its "
        "teacher; it is 11x smaller, 7x faster and its prompt is 67x shorter."
    )
    assert report.versus is not None
    doubtful = report.model_copy(update={"versus": report.versus.model_copy(update={"p_value": 0.4})})
    assert "cannot tell from chance" in facts.verdict(doubtful)
    alone = report.model_copy(update={"entrants": tuple(e for e in report.entrants if e.key != "teacher")})
    assert "no teacher score" in facts.verdict(alone)
    large = {"file_bytes": 5_000_000_000, "rows": 90}
    entrants = tuple(e.model_copy(update=large) if e.shipped else e for e in report.entrants)
    worse = facts.verdict(report.model_copy(update={"entrants": entrants}))
    assert "4.5x larger" in worse
    assert "scored on 700 rows" in worse


def test_commands_survive_quotes() -> None:
    shown = {s.title: s.code for s in facts.snippets(sample(EVIL))}
    compile(shown["Python, against llama-server"], "snippet", "exec")
    assert "'it'\"'\"'s late" in shown["Ollama"]


def test_a_report_round_trips_and_checks_itself() -> None:
    report = sample(EVIL)
    assert Report.model_validate(json.loads(report.model_dump_json())) == report
    two = [e.model_copy(update={"shipped": True}).model_dump() for e in report.entrants]
    with pytest.raises(ValidationError, match="at most one"):
        Report.model_validate(report.model_dump() | {"entrants": two})
    with pytest.raises(ValidationError):
        Report.model_validate(report.model_dump() | {"created": datetime(2025, 1, 1)})  # no zone


def test_pieces_mark_only_the_difference() -> None:
    found = facts.pieces('{"minutes": 12}', '{"minutes": 10}')
    assert [p.text for p in found if p.changed] == ["12"]
    assert "".join(p.text for p in found) == '{"minutes": 12}'
