"""The page of settings says what is so, of every setting."""

import re
from pathlib import Path

import pytest
from small import here

from workbench.config import Config, Member
from workbench.config_text import leaves
from workbench.errors import ConfigError
from workbench.settings_table import comments, tables
from workbench.students.settings import DistilConfig

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|")


def test_the_page_is_what_is_printed(tmp_path: Path) -> None:
    printed = here(tmp_path, "settings").stdout
    assert PAGE.read_text() == printed, "workbench settings > docs/settings.md"


def test_every_setting_has_its_row_and_a_meaning() -> None:
    found = []
    for part in tables().split("\n## ")[1:]:
        section, rows = part.split("\n", 1)
        lines = [line for line in rows.splitlines() if line.startswith("| `")]
        matched = [ROW.fullmatch(line) for line in lines]
        assert all(matched), lines
        assert all(each[4].strip() and "typing" not in each[2] for each in matched if each), section
        found += [f"{section}.{each[1]}" for each in matched if each]
    own = [f"pool.{name}" for name in Member.model_fields if name in Member.__annotations__]
    assert sorted(found) == sorted([name for name in leaves(Config) if name != "pool.teachers"] + own)


@pytest.mark.parametrize("section", ["train", "train.max_minutes"])
def test_one_section(section: str) -> None:
    said = tables(section)
    assert said.startswith("## train\n") and said.count("## ") == 1
    assert "| `max_minutes` | number or none, above 0 | `2.5` / `14.5` | wall time, loading included |" in said


def test_a_comment_that_the_formatter_moved_is_found() -> None:
    assert comments(DistilConfig)["k"] == "of a teacher's likeliest tokens at each place"
    assert comments(Config.model_fields["teacher"].annotation)["engine"].startswith(
        "that a GGUF writes and reads rows in; auto: "
    )  # type: ignore[arg-type]


def test_a_section_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="there is no section 'trian'") as told:
        tables("trian")
    assert told.value.hint.startswith("did you mean train? there are teacher, pool, shots")
