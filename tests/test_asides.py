"""A rationale that the student learns beside its answer, and does not write."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel
from small import here

from workbench import Record, registry
from workbench.config import load_config
from workbench.errors import ConfigError
from workbench.sources.values import holds_free_text
from workbench.stages.attempt import try_method
from workbench.stages.train import ASIDE, pairs, taught
from workbench.students.settings import Pair
from workbench.types import Row

TASK = '''\
from pydantic import BaseModel
from workbench import Data, Prompt, Record, Task, accept, task
from workbench.validators import equivalent, parses, schema


class Asked(BaseModel):
    text: str


class Said(BaseModel):
    steps: str = ""
    answer: int


@task(version=1)
def sums() -> Task:
    """Add two numbers."""
    return Task(
        prompt=Prompt(Asked, Record(Said, rationale=("steps",), aside=True), "Add."),
        data=Data.folder("data"),
        validators=[parses(), schema(), equivalent()],
        sources=("seed",),
        probes=[accept({"text": "2 and 3"}, '{"steps":"2 + 3 = 5","answer":5}')],
    )
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sums.py").write_text(TASK)
    (tmp_path / "data").mkdir()
    for at, split in enumerate(("seeds", "dev", "test")):
        rows = [
            {"input": {"text": f"{n} and {at}"}, "target": {"steps": f"{n} + {at} = {n + at}", "answer": n + at}}
            for n in range(11 + 10 * at, 17 + 10 * at)
        ]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_its_text_is_the_answer_and_a_whole_answer_has_both(project: Path) -> None:
    output = registry.load(str(project / "sums.py")).output
    value = output.parse('{"answer": 5, "steps": "2 + 3 = 5"}')
    assert output.dump(value) == '{"steps":"2 + 3 = 5","answer":5}' and output.schema()["required"] == [
        "steps",
        "answer",
    ]
    assert output.student_text(value) == '{"answer":5}' and output.student_schema()["required"] == ["answer"]
    assert output.aside(value) == "2 + 3 = 5" and output.scored_chars(value) == (0, None)
    assert output.same(output.parse('{"answer":5}'), value) and not output.same(output.parse('{"answer":6}'), value)


def test_what_is_learned_aside_wants_a_default() -> None:
    class Bare(BaseModel):
        steps: str
        answer: int

    with pytest.raises(TypeError, match=r'Bare.steps is learned aside, and wants a default: steps: str = ""'):
        Record(Bare, rationale=("steps",), aside=True)
    with pytest.raises(TypeError, match="none is named"):
        Record(Bare, aside=True)

    class Loose(BaseModel):
        steps: list[str] | None = None
        answer: int

    loose = Record(Loose, rationale=("steps",), aside=True)
    assert loose.aside(loose.parse('{"answer": 5}')) == "" and holds_free_text(loose, {"steps": ["2"], "answer": 5})
    assert loose.aside(loose.parse('{"answer": 5, "steps": ["2", "3"]}')) == '["2","3"]'
    whole = Record(Bare, rationale=("steps",))
    value = whole.parse('{"steps": "2 + 3 = 5", "answer": 5}')
    assert whole.student_text(value) == whole.dump(value) and whole.aside(value) == ""


def test_it_is_learned_behind_a_prompt_of_its_own() -> None:
    rows = [Row(id=str(n), input={}, prompt=f"say {n}", completion=str(n), source="s", aside="why" * n) for n in (0, 1)]
    assert taught(rows) == [
        Pair(prompt="say 0", completion="0"),
        Pair(prompt="say 1", completion="1"),
        Pair(prompt=f"{ASIDE}say 1", completion="why"),
    ]


def test_the_expert_answers_without_it(project: Path, tiny: Path) -> None:
    sets = ("shots.mode=fixed", "train.max_steps=2", "train.evals=1", "export.quants=['Q8_0']", "export.importance=false",
            "export.max_ratio=1", "select.seed_repeats=1", "student.max_tokens=8")  # fmt: skip
    done = here(project, "run", "sums.py", "--until", "export", "--teacher", "hf:" + str(tiny), "--student", str(tiny),
                *(word for item in sets for word in ("--set", item)))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (shard,) = project.glob(".workbench/store/select/*/*/rows.jsonl")
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    assert {(row["completion"], row["aside"]) for row in rows} == {
        (f'{{"answer":{n}}}', f"{n} + 0 = {n}") for n in range(11, 17)
    }
    (summary,) = project.glob(".workbench/store/train/*/*/summary.json")
    assert json.loads(summary.read_text())["rows"] == 12
    (expert,) = project.glob(".workbench/store/export/*/*/expert")
    assert json.loads((expert / "schema.json").read_text())["required"] == ["answer"]
    task = registry.load(str(project / "sums.py"))
    assert [pair.completion for pair in pairs(task, task.examples("dev"))][:1] == ['{"answer":22}']


@pytest.mark.parametrize("method", ["kd", "gkd", "dagger"])
def test_nobody_reads_or_judges_half_an_answer(project: Path, method: str) -> None:
    (project / "sums.py").write_text(TASK.replace('("seed",)', '("seed", "inverse")'))
    with pytest.raises(ConfigError, match="lacks its rationale"):
        try_method(registry.load(str(project / "sums.py")), load_config(distil={"method": method}))
