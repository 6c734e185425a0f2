"""Each thing that can be wrong with a task, its rows and the settings, told in two lines without a traceback."""

from pathlib import Path

import pytest
from small import ROWS, Told, opening, write_rows, write_task

from workbench import commands, registry

MEND = "mend the task file, then `workbench check`"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


def test_an_unknown_task(fails: Told) -> None:
    assert fails("run", "phone_action")[0] == "no task is called 'phone_action'"
    assert "did you mean phone_actions" in fails("check", "phone_action")[1]
    assert fails("run", "qqqqqq")[1] == "`workbench list` shows all"


def test_a_task_file_that_is_not_there(fails: Told) -> None:
    error, hint = fails("check", "gone.py")
    assert error == "there is no task file gone.py"
    assert "workbench new" in hint


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("from pydantic import BaseModel, Field", "import no_such_library", 1, "ModuleNotFoundError"),
        ('"""Phone a person."""', "1 / 0", 17, "ZeroDivisionError"),
        ('"""Phone a person."""', "def", 17, "invalid syntax"),
        ("grounded(), equivalent()", "grounded(), missing()", 35, "NameError: name 'missing'"),
        ('    """Turn one request into calls."""\n', "", 29, "has no docstring"),
    ],
)
def test_a_task_file_at_fault_is_told_with_its_line(
    project: Path, fails: Told, old: str, new: str, line: int, says: str
) -> None:  # fmt: skip
    file = project / "talk.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    for verb in ("check", "run"):
        error, hint = fails(verb, "talk.py")
        assert error.startswith(f"{file}, line {line}: ")
        assert says in error
        assert hint == ("say in one line what the task does" if "docstring" in says else MEND)


def test_a_task_file_without_a_task(project: Path, fails: Told) -> None:
    (project / "plain.py").write_text("x = 1\n")
    error, hint = fails("check", "plain.py")
    assert error == "plain.py declares no task"
    assert "@task()" in hint
    (project / "plain.py").write_text(
        'from workbench import task\n@task()\ndef plain():\n    """Nothing."""\n    return 3\n'
    )
    assert "plain() returned int" in fails("check", "plain.py")[0]


def test_of_several_tasks_in_a_file_one_is_named(project: Path, fails: Told) -> None:
    file = project / "talk.py"
    other = file.read_text().partition("@task")[2].replace("def talk(", "def chat(")
    file.write_text(f"{file.read_text()}\n\n@task{other}")
    error, hint = fails("check", "talk.py")
    assert (error, hint) == ("talk.py declares 2 tasks", "write talk.py::talk or talk.py::chat")
    assert fails("run", "talk.py::shout") == ("talk.py declares no task 'shout'", "it declares talk, chat")
    assert "there is no run 'chat'" in fails("predict", "talk.py::chat", "hi")[0]
    chat = registry.load(f"{file}::chat")
    assert (chat.name, commands.typed(chat.name, str(file))) == ("chat", "talk.py::chat")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"input": {"text": "hi"}, "target": [{"name": "fly", "arguments": {}}]}', "no function is called 'fly'"),
        (
            '{"input": {"text": "hi"}, "target": [{"name": "open_app", "arguments": {}}]}',
            "open_app.app: Field required",
        ),
        ('{"input": {"text": ""}, "target": []}', "text: String should have at least 1 character"),
        ('{"input": {"text": "hi"}}', "'target' is missing"),
        ('{"target": []}', "'input' is missing"),
        ('{"input": {"text": "hi"}, "target"', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"input": {"text": "hi"}, "target": {}}', "not a list of calls"),
    ],
)
def test_a_row_that_does_not_fit(project: Path, fails: Told, line: str, says: str) -> None:
    dev = project / "data" / "dev.jsonl"
    lines = dev.read_text().splitlines()
    dev.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    error, _ = fails("run", "talk.py", "--until", "examples")
    assert error.startswith(f"{dev}, row 3: ")
    assert says in error


def test_data_that_is_missing_or_empty(project: Path, fails: Told) -> None:
    test = project / "data" / "test.jsonl"
    test.write_text("\n")
    assert fails("run", "talk.py", "--until", "examples")[0] == f"{test} holds no rows"
    test.write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in fails("run", "talk.py", "--until", "examples")[0]
    test.unlink()
    error, hint = fails("run", "talk.py", "--until", "examples")
    assert error == f"{test} is missing"
    assert "seeds.jsonl" in hint


@pytest.mark.parametrize(
    ("corpus", "says"),
    [
        (None, "is missing"),
        ("\n", "holds no rows"),
        ('{"input": {"words": "hi"}}\n', "row 1: input.text: Field required"),
    ],
)
def test_a_corpus_at_fault_is_told_before_a_model_is_loaded(
    project: Path, fails: Told, corpus: str | None, says: str
) -> None:
    file, path = project / "talk.py", project / "data" / "corpus.jsonl"
    file.write_text(file.read_text().replace('sources=("seed"', 'sources=("corpus", "seed"'))
    if corpus is not None:
        path.write_text(corpus)
    error, _ = fails("run", "talk.py", "--until", "examples")
    assert error.startswith(str(path))
    assert says in error


def test_a_row_in_two_splits(project: Path, fails: Told) -> None:
    seed = ROWS["seeds"][2]
    write_rows(project / "data" / "test.jsonl", [*ROWS["test"], (seed[0].upper(), [opening("CHESS")])])
    error, hint = fails("run", "talk.py", "--until", "examples")
    assert error.startswith("one row stands in seed and in test: ")
    assert "take it out" in hint


@pytest.mark.parametrize(
    ("arguments", "says", "next_"),
    [
        (["--until", "trian"], "--until trian: there is no such stage", "examples, shots, sample, select, train"),
        (["--force", "all"], "--force all: there is no such stage", "examples"),
        (["--profile", "fast"], "no profile is called 'fast'", "quick, full"),
        (["--set", "train.lr"], "--set train.lr: no `=`", "section.key=value"),
        (["--set", "profile=full"], "--set profile: ", "write --profile quick or full"),
        (
            ["--set", "train.lrr=3"],
            "train.lrr: there is no such setting",
            "did you mean train.lr? `workbench settings train`",
        ),
        (["--set", "trian.lr=3"], "trian.lr: there is no such setting", "did you mean train.lr?"),
        (["--set", "lr=0.1"], "lr: there is no such setting", "did you mean train.lr?"),
        (["--set", "model=x"], "model: there is no such setting", "did you mean teacher.model or student.model?"),
        (["--set", "zzz=1"], "zzz: there is no such setting", "`workbench settings` shows all"),
        (["--set", "pool.teachers=[{modle='x'}]"], "pool.teachers.0.modle: there is no such setting", "mean model?"),
        (["--set", "export.quants=Q4_0"], "export.quants: a list is wanted", """--set 'export.quants=["Q4_0"]'"""),
        (["--set", "pool.teachers=x"], "pool.teachers: a list is wanted", """'pool.teachers=[{model="x", ...}]'"""),
        (
            ["--set", "sample.inverse=many"],
            "sample.inverse: Input should be a valid integer",
            "`workbench settings sample` tells",
        ),
        (
            ["--set", "sample.inverse=-1"],
            "sample.inverse: Input should be greater than or equal to 0",
            "settings sample",
        ),
        (["--set", "sample=3"], "sample is a section", "write sample.inverse=..."),
        (["--config", "wrong.toml"], "wrong.toml: sample.inverse: Input should be a valid integer", "settings sample"),
        (["--config", "wrong.toml", "--set", "sample.inverse=few"], "sample.inverse: Input should", "settings sample"),
        (["--config", "full.toml", "--profile", "quick"], "full.toml has profile = 'full'", "leave --profile out"),
        (["--config", "fast.toml"], "fast.toml: no profile is called 'fast'", "quick, full"),
        (["--config", "gone.toml"], "there is no config file gone.toml", "TOML"),
        (["--config", "broken.toml"], "broken.toml: ", "mend the TOML"),
        (["--config", "data"], "data", "TOML"),
        (["--config", "latin.toml"], "latin.toml", "TOML"),
    ],
)
def test_a_setting_at_fault(project: Path, fails: Told, arguments: list[str], says: str, next_: str) -> None:
    (project / "broken.toml").write_text("[sample\ninverse = 3")
    (project / "latin.toml").write_bytes(b'profile = "\xe9"')
    (project / "wrong.toml").write_text('[sample]\ninverse = "many"')
    for name in ("full", "fast"):
        (project / f"{name}.toml").write_text(f'profile = "{name}"')
    error, hint = fails("run", "talk.py", *arguments)
    assert says in error
    assert "wrong.toml" not in error or "--set" not in arguments, "what was typed is not the file's fault"
    assert next_ in hint
