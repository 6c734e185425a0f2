"""What a teacher costs by the table, and what stands above the table."""

from datetime import date
from pathlib import Path

import pytest

from workbench import tables
from workbench.commands import settings
from workbench.config import TeacherConfig
from workbench.errors import ConfigError
from workbench.prices import FILE, Entry, priced
from workbench.registry import load

OPENAI = "https://api.openai.com/v1"
OWN = """
[[price]]
name = "house"
hosts = ["llm.example.com"]
models = ["big-*"]
price_in = 3
price_out = 9.5
source = "https://example.com/contract"
checked = 2026-01-02
"""


def of(project: Path, model: str, base_url: str, **more: float) -> tuple[float, float, str]:
    teacher, told = priced(TeacherConfig(model=model, base_url=base_url, **more), project)
    return teacher.price_in, teacher.price_out, told


def test_the_table_names_a_price_for_a_model_at_its_host(tmp_path: Path) -> None:
    price_in, price_out, told = of(tmp_path, "openai/GPT-4.1-mini", OPENAI)
    assert (price_in, price_out) == (0.4, 1.6)
    assert "0.4 and 1.6 a million tokens" in told and "as of 2026-" in told
    assert of(tmp_path, "gpt-4.1-mini-2025-04-14", OPENAI)[:2] == (0.4, 1.6)
    assert of(tmp_path, "gpt-4.1-2025-04-14", OPENAI)[:2] == (2, 8)


@pytest.mark.parametrize(
    ("model", "base_url"),
    [("gpt-4.1-mini", "http://localhost:8000/v1"), ("gpt-4.1-mini", ""), ("nobody-knows", OPENAI)],
)
def test_what_the_table_does_not_name_has_no_price(tmp_path: Path, model: str, base_url: str) -> None:
    assert of(tmp_path, model, base_url) == (0, 0, "")


def test_what_was_set_stands_above_the_table(tmp_path: Path) -> None:
    assert of(tmp_path, "gpt-4.1-mini", OPENAI, price_out=7) == (0, 7, "")
    assert of(tmp_path, "gpt-4.1-mini", OPENAI, price_in=0) == (0, 0, "")  # an agreement of one's own: nothing


def test_an_own_table_comes_first(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(OWN + OWN.replace("house", "openai-gpt-4.1-mini").replace("3\n", "1\n"))
    assert of(tmp_path, "big-7", "https://llm.example.com/v1")[:2] == (3, 9.5)
    assert of(tmp_path, "gpt-4.1-mini", OPENAI) == (0, 0, "")  # the entry of that name is about another host now


def test_an_own_table_at_fault_is_named(tmp_path: Path) -> None:
    for text, says in (
        (OWN.replace("= 3", "= -3"), "price.0.price_in"),
        (OWN.replace('models = ["big-*"]', ""), "must name hosts and models"),
        (OWN.replace("[[price]]", "[[prices]]"), "only [[price]]"),
    ):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ConfigError, match=FILE) as caught:
            of(tmp_path, "big-7", "https://llm.example.com/v1")
        assert says in str(caught.value) and caught.value.hint


def test_the_table_is_whole() -> None:
    entries = tables.entries(Entry, "price", FILE, Path("nowhere"))
    assert len({entry.name for entry in entries}) == len(entries) > 5
    for entry in entries:
        assert entry.source.startswith("https://")
        assert date(2026, 1, 1) <= entry.checked <= date.today()
        assert 0 < entry.price_in <= entry.price_out < 100


def test_every_verb_that_takes_settings_looks_it_up_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settings(load("phone_actions"), "quick", [f"teacher.base_url={OPENAI}"], teacher="gpt-4.1")
    assert (config.teacher.price_in, config.teacher.price_out) == (2, 8)
    assert capsys.readouterr().out.startswith("prices: 2 and 8 a million tokens")
