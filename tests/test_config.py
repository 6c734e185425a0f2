"""What a setting is where several places name it."""

from pathlib import Path

import pytest
import tomli_w
from small import TASK

from workbench import registry
from workbench.commands import check, settings
from workbench.config import PROFILES, checked, load_config
from workbench.config_text import without_none
from workbench.errors import ConfigError

OWN = {"full": {"sample": {"max_minutes": 31.0, "inverse": 7}, "train": {"r": 4}}}


def test_profile_then_task_then_file_then_set(tmp_path: Path) -> None:
    file = tmp_path / "more.toml"
    file.write_text("[sample]\nmax_minutes = 32.0\nmax_calls = 5\n")
    config = load_config("full", file, ("sample.max_calls=6",), OWN)
    assert config.sample.values_per_slot == PROFILES["full"]["sample"]["values_per_slot"], (
        "what nobody named is the profile's"
    )
    assert (config.sample.inverse, config.train.r) == (7, 4), "the task's"
    assert (config.sample.max_minutes, config.sample.max_calls) == (32.0, 6), "the file's, and what was typed"
    assert load_config("quick", profiles=OWN).train.r != 4, (
        "what a task needs in one profile is not asked for in another"
    )


def test_the_profile_of_a_file_is_the_base_of_what_it_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('profile = "full"\n[sample]\nmax_calls = 5\n')
    for profile in ("", "full"):
        config = load_config(profile, file, profiles=OWN)
        assert config == load_config("full", None, ("sample.max_calls=5",), OWN)
    assert load_config(default="full").profile == "full" and load_config().profile == "quick"
    file.write_text("[sample]\nmax_calls = 5\n")
    assert load_config(file=file, default="full") == load_config("full", file)


def test_the_settings_of_the_tasks_here_are_settings() -> None:
    for found in registry.available():
        task = registry.made(found)
        for profile in PROFILES:
            assert settings(task, profile).profile == profile


@pytest.mark.parametrize(
    ("own", "said"),
    [('{"fast": {}}', "no profile is called 'fast'"), ('{"full": {"sample": {"minutes": 3}}}', "sample.minutes")],
)
def test_a_task_that_asks_for_what_there_is_not(own: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "talk.py"
    file.write_text(TASK.replace("        probes=[", f"        profiles={own},\n        probes=["))
    with pytest.raises(ConfigError, match=said):
        settings(registry.load(str(file)), "full")
    with pytest.raises(ConfigError, match=said):
        check(str(file))


def test_the_grid_is_that_of_the_one_file_that_may_ship() -> None:
    only, both = "export.quants=['Q8_0']", "export.quants=['Q8_0','Q4_K_M']"
    grids = [load_config(sets=sets).distil.grid for sets in ((), (both,), (only,), (only, "distil.grid=Q4_0"))]
    assert grids == ["Q4_0", "Q4_0", "Q8_0", "Q4_0"]
    assert checked(load_config(sets=(only,))).distil.grid == "Q8_0"


def test_none_can_be_said_and_is_kept_in_a_runs_own_file(tmp_path: Path) -> None:
    assert load_config("quick").train.max_minutes == 2.5
    sets = (
        "train.max_minutes=none",
        "distil.last_mile=none",
        'pool.teachers=[{model="a.gguf", fallback=true, constrained="none"}]',
    )
    config = load_config("quick", sets=sets)
    assert (config.train.max_minutes, config.distil.last_mile) == (None, None)
    assert config.pool.teachers[0].constrained is None
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(without_none(config.model_dump(mode="json"))))
    assert load_config(file=file) == config, "the profile's minutes are not back"
    with pytest.raises(ConfigError, match=r"sample\.max_minutes"):
        load_config("quick", sets=("sample.max_minutes=none",))
    assert load_config(sets=("teacher.licence=none",)).teacher.licence == "none", "where text may stand it is text"


def test_a_teachers_own_limits_and_one_of_several_parts(tmp_path: Path) -> None:
    own = 'runtime.per_teacher={"a-1.5" = {concurrency = 3, tokens_a_minute = 90.0}}'
    runtime = load_config("quick", sets=(own, "runtime.requests_a_minute=60")).runtime
    assert runtime.of("b") is runtime
    mine = runtime.of("a-1.5")
    assert (mine.concurrency, mine.requests_a_minute, mine.tokens_a_minute) == (3, 60.0, 90.0)
    part = runtime.shared(4)
    assert (part.concurrency, part.requests_a_minute, part.tokens_a_minute) == (4, 15.0, 0.0)
    mine = part.of("a-1.5")
    assert (mine.concurrency, mine.requests_a_minute, mine.tokens_a_minute) == (1, 15.0, 22.5)
    config = load_config("quick", sets=(own,))
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(without_none(config.model_dump(mode="json"))))
    assert load_config(file=file) == config
    with pytest.raises(ConfigError, match="hedge_s: what is sent twice is not counted"):
        load_config("quick", sets=(own, "runtime.hedge_s=5"))
