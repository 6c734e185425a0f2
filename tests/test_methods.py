"""Ways of learning: what each asks of a run, those that packages bring, and the two that begin at the student itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from servers import TeacherServer
from small import ROWS, TASK, here, write_rows, write_task

from workbench import methods
from workbench.config import load_config
from workbench.errors import ConfigError
from workbench.logits import LogitFile
from workbench.plan import inputs_of, stages
from workbench.provenance import joined
from workbench.runs import read_lock
from workbench.stages import attempt, capture, label
from workbench.stages.context import read_json, read_jsonl
from workbench.stages.exam import Answer
from workbench.stages.job import Job, learn
from workbench.stages.train import mixed, shared_out
from workbench.students import qlora
from workbench.students.batches import Encoded, collate
from workbench.students.divergence import Blend, Soft
from workbench.students.grid import GRIDS
from workbench.students.load import load_model
from workbench.students.lora import onto_grid
from workbench.students.losses import completion_loss
from workbench.students.settings import DistilConfig, Pair, TrainConfig
from workbench.types import Judgement, Message, Row

PACKAGE = """\
from workbench.methods import Method


class Mine(Method):
    name = "mine"
    title = "as it likes"
    version = 3


class Torn(Method):
    name = "torn"
    title = "attempts that nobody looks at"
    attempts = "rows"


class Hasty(Method):
    name = "hasty"
    title = "the student answers, some day"
    attempts = "unanswered"


class Odd(Method):
    name = "odd"
    title = "the student answers what nobody knows"
    attempts = "everything"
    rounds = 2


class Both(Method):
    name = "both"
    title = "two answer first"
    attempts = "unanswered"
    labels = True
    rounds = 2


class Nothing:
    pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    info = folder / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "outside.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    points = {name: f"outside:{name.title()}" for name in ("mine", "torn", "hasty", "odd", "both", "nothing")} | {
        "gone": "nowhere:Gone"
    }
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (info / "entry_points.txt").write_text(f"[{methods.GROUP}]\n{lines}")
    monkeypatch.syspath_prepend(str(folder))


def test_each_is_known_by_its_name() -> None:
    assert methods.names()[:7] == ["sft", "kd", "gkd", "dagger", "assistant", "parent", "qat"]
    for name in methods.BUILT_IN:
        assert methods.named(name).name == name and methods.named(name).title


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="there is no method 'daggr'") as told:
        load_config(sets=("distil.method=daggr",))
    assert told.value.hint.startswith("did you mean dagger? there are sft, kd,")


@pytest.mark.usefixtures("package")
def test_a_package_brings_its_own() -> None:
    assert methods.names()[7:] == ["both", "gone", "hasty", "mine", "nothing", "odd", "torn"]
    assert load_config(sets=("distil.method=mine",)).distil.method == "mine"
    for name, said in {
        "gone": "cannot be imported",
        "nothing": "is no workbench.methods.Method",
        "torn": "captured",
        "hasty": "in a second round",
        "both": "assistant and student both answer first",
        "odd": "attempts is 'everything', which is none of '', 'unanswered', 'rows'",
    }.items():
        with pytest.raises(ConfigError, match=said):
            methods.named(name)


def test_one_that_lets_the_student_answer_first_has_two_rounds() -> None:
    assert load_config(sets=("distil.method=gkd",)).rounds.count == 2
    assert load_config(sets=("distil.method=gkd", "rounds.count=3")).rounds.count == 3
    assert load_config().rounds.count == 1


def given(method: str) -> dict[str, dict[str, str]]:
    return {stage.label: inputs_of(stage, 1) for stage in stages(load_config(sets=(f"distil.method={method}",)))}


def test_the_student_answers_the_shard_and_its_teacher_reads_that() -> None:
    found = given("gkd")
    assert [*found] == ["examples", "shots", "sample", "select", "train", "merge", "export", "attempt.2", "sample.2",
                        "select.2", "capture.2", "train.2", "merge.2", "export.2", "evaluate"]  # fmt: skip
    assert found["attempt.2"] == {
        "examples": "examples", "sample before": "sample", "select before": "select", "export before": "export",
    }  # fmt: skip
    assert "attempt" not in found["sample.2"] and "select before" not in found["train.2"]
    assert found["capture.2"]["attempt"] == found["train.2"]["attempt"] == "attempt.2"
    assert found["train.2"]["capture"] == "capture.2" and "capture" not in found["train"]


def test_the_student_answers_the_corpus_and_the_rest_is_asked() -> None:
    found = given("dagger")
    assert "capture.2" not in found and found["sample.2"]["attempt"] == "attempt.2"
    assert found["train.2"] == {
        "examples": "examples", "select": "select.2", "train before": "train", "select before": "select",
    }  # fmt: skip


def test_an_assistant_learns_before_there_is_a_shard_and_what_it_labels_enters_that() -> None:
    sets = ("distil.method=assistant", "distil.assistant=m")
    found = {stage.label: inputs_of(stage, 1) for stage in stages(load_config(sets=sets))}
    assert [*found] == [
        "examples",
        "shots",
        "sample",
        "assistant",
        "label",
        "select",
        "train",
        "merge",
        "export",
        "evaluate",
    ]
    assert found["assistant"] == {"examples": "examples", "sample": "sample"}
    assert found["label"] == {"examples": "examples", "sample": "sample", "assistant": "assistant"}
    assert found["select"] == {"examples": "examples", "sample": "sample", "label": "label"}
    assert "assistant" not in found["train"] and "label" not in found["train"]
    two = {stage.label: inputs_of(stage, 1) for stage in stages(load_config(sets=(*sets, "rounds.count=2")))}
    assert two["label.2"]["assistant"] == "assistant.2" and two["select.2"]["label"] == "label.2"
    with pytest.raises(ConfigError, match="wants the model that learns the rows first"):
        load_config(sets=("distil.method=assistant",))


def test_the_first_round_is_the_text_alone() -> None:
    for name, first in {"gkd": "sft", "dagger": "sft", "kd": "kd", "qat": "qat"}.items():
        assert methods.named(name).of_round(1).name == first and methods.named(name).of_round(2).name == name


def test_weights_are_rounded_in_the_last_steps_of_qat_and_where_that_is_asked_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, half = (DistilConfig(method="sft", last_mile=mile, grid="Q8_0") for mile in (None, 0.5))
    assert DistilConfig().method == "sft"
    assert [methods.named(name).rounded(plain) for name in ("sft", "parent", "qat")] == [0, 0, 0.3]
    assert [methods.named(name).rounded(half) for name in ("sft", "qat")] == [0.5, 0.5]
    assert methods.named("qat").rounded(DistilConfig(last_mile=0)) == 0
    grid = "the rows' text, in the last 50% of the steps by weights rounded to the Q8_0 grid"
    assert methods.named("sft").told(half) == grid and methods.named("sft").told(plain) == "the rows' text"
    switched: list[object] = []
    monkeypatch.setattr(qlora, "onto_grid", lambda model, grid: (switched.append(grid), onto_grid(model, grid)))
    rows = tuple(Pair(prompt=f"say {word}", completion=word) for word in ("one", "two"))
    config = TrainConfig(r=2, max_steps=2, tokens_per_step=60, evals=1)
    for distil, seen in ((plain, []), (half, [None, GRIDS["Q8_0"]])):
        job = Job(base=tiny, rows=rows, dev=rows, config=config, distil=distil, work=tmp_path / str(distil.last_mile))
        learn(job, lambda progress: None)
        assert switched == seen


def test_rounds_share_steps_and_minutes() -> None:
    shared = shared_out(TrainConfig(max_steps=7, max_minutes=3.0, min_steps=5), 2)
    assert (shared.max_steps, shared.max_minutes, shared.min_steps) == (3, 1.5, 2)
    assert shared_out(TrainConfig(), 2) == TrainConfig()


def test_new_rows_have_their_share() -> None:
    old, new = (
        [Pair(prompt=f"{name} {n}", completion="") for n in range(count)] for name, count in (("o", 90), ("n", 10))
    )
    assert mixed(old, new, 0.0) == [*old, *new] == mixed(old, new, 0.05)
    assert mixed(old, new, 0.25) == [*old, *new * 3]
    assert mixed(old, new, 0.9) == [*old, *new * 5], "not more often than that"
    assert mixed(old, [], 0.5) == old


def test_of_the_students_own_words_only_what_the_teacher_thinks_is_learned(tiny: Path) -> None:
    model = load_model(tiny, dtype=torch.float32)
    soft = Soft.of(torch.tensor([[11, 12], [13, 14]]), torch.tensor([[0.6, 0.3], [0.5, 0.4]]).log())
    said = Encoded([5, 6, 7, 8], 2, range(2), soft)
    own = said._replace(own=True)
    text, lone, far = (
        completion_loss(model, collate([row], 0), 1.0, Blend(weight)).item()
        for row, weight in ((said, 1e-9), (own, 0.3), (said, 1.0))
    )
    assert lone == pytest.approx(far, rel=1e-5) != pytest.approx(text, rel=0.01)
    unknown = collate([own._replace(soft=None), said], 0)
    both = completion_loss(model, unknown, 1.0, Blend(1.0)).item()
    assert both == pytest.approx(far / 2, rel=1e-5), "of its own words that nobody looked at nothing is learned"
    other = collate([own._replace(ids=[5, 6, 7, 9]), said], 0)
    assert (
        completion_loss(model, other, 1.0, Blend(0.3)).item() != completion_loss(model, unknown, 1.0, Blend(0.3)).item()
    )


def test_it_is_told_before_a_teacher_is_paid_that_nothing_is_unanswered(
    server: TeacherServer, tmp_path: Path, tiny: Path
) -> None:
    write_task(tmp_path).write_text(TASK.replace(', "inverse")', ")"))
    done = here(tmp_path, "run", "talk.py", "--method", "dagger", "--teacher", "fake", "--student", str(tiny),
                "--set", f"teacher.base_url={server.base_url}")  # fmt: skip
    assert done.returncode != 0 and "talk comes by none" in done.stderr
    assert server.count == 0


SETS = ("shots.mode=fixed", "select.recombine=0", "train.max_steps=20", "train.epochs=30", "train.lr=0.02", "train.evals=1",
        "distil.k=8", "export.quants=['Q8_0']", "export.importance=false", "export.max_ratio=1", "evaluate.base_rows=0",
        "evaluate.timed=1", "student.max_tokens=8", "distil.attempts=9", "distil.warmth=0.0")  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Nothing is asked for, ever: a student of two layers learns that in a few steps, and what it says then passes."""
    write_task(tmp_path)
    for split, rows in ROWS.items():
        write_rows(tmp_path / "data" / f"{split}.jsonl", [(text, []) for text, _ in rows])
    return tmp_path


def walk(folder: Path, method: str, student: Path, teacher: str, *more: str, until: str) -> str:
    done = here(folder, "run", "talk.py", "--method", method, "--teacher", teacher, "--student", str(student),
                "--until", until, *(w for s in (*SETS, *more) for w in ("--set", s)))  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ended(folder: Path, method: str) -> None:
    """Every way of learning ends in the same folder and report."""
    latest = folder / "runs" / "talk" / "latest"
    expert = {path.name for path in (latest / "expert").iterdir()}
    assert expert == {"model.gguf", "grammar.gbnf", "schema.json", "Modelfile", "README.md"}
    assert load_config(file=latest / "config.toml").distil.method == method
    assert "<table" in (latest / "report.html").read_text() and (latest / "report.md").read_text().count("|") > 20
    bill = here(folder, "audit", str(latest / "expert"))
    assert bill.returncode == 0, bill.stderr
    title = methods.named(method).of_round(read_lock(latest).kept).title
    if title != methods.Sft.title:
        assert title in (latest / "report.md").read_text() and title in bill.stdout


@pytest.mark.parametrize("method", ["kd", "qat"])
def test_a_method_of_one_round_ends_in_an_expert(smollm2_hf: Path, tiny: Path, project: Path, method: str) -> None:
    (project / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    walk(project, method, tiny, f"hf:{smollm2_hf}", until="")
    ended(project, method)


def stage(folder: Path, label: str) -> Path:
    lock = read_lock(max((folder / "runs" / "talk").glob("*Z-*")))
    entry = lock.exactly(label)
    assert entry is not None, f"{label} was not walked"
    return Path(entry.path)


def test_a_teacher_reads_what_the_student_wrote(smollm2_hf: Path, tiny: Path, project: Path) -> None:
    (project / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    told = walk(project, "gkd", tiny, f"hf:{smollm2_hf}", until="train.2")
    said = list(read_jsonl(stage(project, "attempt.2") / attempt.FILE, Judgement))
    own = [item for item in said if item.verdict != attempt.UNENDED]
    assert len(said) == 9 and own, told
    (captured,) = capture.captured(stage(project, "capture.2"))
    with LogitFile(captured.file) as file:
        assert len(file) == len({(item.candidate.example.id, item.candidate.text) for item in own})
    summary = json.loads((stage(project, "train.2") / "summary.json").read_text())
    assert summary["aligned"] == 1.0 and summary["steps"] == 10, "half of them each"
    again = walk(project, "gkd", tiny, f"hf:{smollm2_hf}", until="train.2")
    assert ": runs" not in again
    walk(project, "gkd", tiny, f"hf:{smollm2_hf}", until="")
    ended(project, "gkd")


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[TeacherServer]:
    with TeacherServer(tmp_path / "log.jsonl", text="[]") as running:
        yield running


def test_what_passes_is_learned_and_the_teacher_is_asked_about_the_rest(
    tiny: Path, teacher: TeacherServer, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The student's words are put into its mouth: one that passes, one that does not, one without an end."""
    (project / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"corpus"'))
    texts = [f"what do you make of number {word}" for word in ("one", "seven", "thirty", "ninety", "eleven hundred")]
    (project / "data" / "corpus.jsonl").write_text(
        "".join(json.dumps({"input": {"text": text}}) + "\n" for text in texts)
    )
    words = [("[]", True), ("open maps", True), ("[[[[", False)]

    def says(gguf: Path, chats: list[object], *_: object, **how: object) -> list[Answer]:
        if "temperature" not in how:  # its exam
            return [Answer("[]", 1) for _ in chats]
        assert gguf.name == "Q8_0.gguf" and len(chats) == 3
        return [Answer(text, 1, ended) for text, ended in words]

    for place in ("workbench.stages.attempt.ask_all", "workbench.stages.export.ask_all"):
        monkeypatch.setattr(place, says)
    sets = (f"teacher.base_url={teacher.base_url}", "sample.max_calls=4", "train.max_steps=4", "select.empty_margin=-1")
    told = walk(project, "dagger", tiny, "fake", *sets, until="select.2")
    assert "the student answered 3 of 3 inputs, 1 pass" in told
    own = {item.candidate.text: item for item in read_jsonl(stage(project, "attempt.2") / attempt.FILE, Judgement)}
    assert [*own] == ["[]", "open maps", "[[[["] and own["[[[["].verdict == attempt.UNENDED
    found = list(read_jsonl(stage(project, "sample.2") / "candidates.jsonl", Judgement))
    assert [item.candidate.source for item in found] == ["corpus", "corpus", "student", "corpus", "corpus"]
    asked = {item.candidate.example.id for item in found[3:]}
    assert asked == {own[text].candidate.example.id for text in ("open maps", "[[[[")}
    assert found[2].teacher.startswith("fake") and found[2].candidate.call == ""
    funnel = json.loads((stage(project, "sample.2") / "funnel.json").read_text())
    assert (funnel["candidates"], funnel["own"], funnel["calls"]) == (5, 1, 4)
    rows = {row.source: row for row in read_jsonl(stage(project, "select.2") / "rows.jsonl", Row)}
    assert rows["student"].completion == "[]" and rows["student"].teacher.startswith("fake")
    walk(project, "dagger", tiny, "fake", *sets, until="")
    ended(project, "dagger")


def test_an_assistant_answers_what_no_answer_of_the_teacher_passed_for(
    tiny: Path, teacher: TeacherServer, project: Path
) -> None:
    """A real one, of two layers: it learns to say `[]`, and says it."""
    (project / "talk.py").write_text(TASK.replace('"recombine", "inverse"', '"recombine", "corpus"'))
    texts = [f"what do you make of number {word}" for word in ("one", "seven", "thirty", "ninety", "eleven hundred")]
    (project / "data" / "corpus.jsonl").write_text(
        "".join(json.dumps({"input": {"text": text}}) + "\n" for text in (*texts, "is it raining in Oslo"))
    )
    sets = (f"teacher.base_url={teacher.base_url}", "sample.max_calls=2", "select.empty_margin=-1", "select.doubtful=0.4",
            f"distil.assistant={tiny}", "distil.assistant_share=1.5")  # fmt: skip
    told = walk(project, "assistant", tiny, "fake", *sets, until="select")
    assert teacher.count == 2 and "assistant: train: " in told and "label: the assistant answered 3 of 3 inputs" in told
    assert json.loads((stage(project, "assistant") / "train" / "summary.json").read_text())["steps"] == 30
    asked = list(read_jsonl(stage(project, "sample") / "candidates.jsonl", Judgement))
    labelled = list(read_jsonl(stage(project, "label") / label.FILE, Judgement))
    inputs = [item.candidate.example.input["text"] for items in (asked, labelled) for item in items]
    assert sorted(inputs) == sorted(texts), "each once, and no test row"
    leaks = [read_json(stage(project, name) / "leaks.json") for name in ("label", "select")]
    assert len(leaks[0]) == 1 and leaks[0].items() <= leaks[1].items()
    assert {item.candidate.text for item in labelled} == {"[]"} and all(
        item.verdict.outcome == "pass" for item in labelled
    )
    assert all(item.candidate.logprob is not None and item.candidate.call == "" for item in labelled)
    rows = [row for row in read_jsonl(stage(project, "select") / "rows.jsonl", Row) if row.source == "assistant"]
    assert len(rows) == 2, "without the one it was least sure of"
    assert {row.teacher for row in rows} == {joined([asked[0].teacher, str(tiny)])} and rows[0].licence.endswith(
        "unknown"
    )
    funnel = read_json(stage(project, "select") / "funnel.json")
    assert (funnel["from the teacher"], funnel["from the assistant"]) == (2, 2)
    again = walk(project, "assistant", tiny, "fake", *sets, until="select")
    assert ": runs" not in again
    walk(project, "assistant", tiny, "fake", *sets, until="")
    ended(project, "assistant")
    bill = here(project, "audit", str(project / "runs" / "talk" / "latest" / "expert")).stdout
    assert f"2 assistant by fake, {tiny.name}, unknown" in bill


@pytest.mark.parametrize(("answer", "source"), [("[]", "student"), ("open maps", "attempted")])
def test_without_a_corpus_it_answers_what_a_teacher_wrote_in_vain(
    tiny: Path, tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch, answer: str, source: str
) -> None:
    """The teacher writes `open maps` for any answer, and reads nothing in it: each of its rows is refused."""

    def says(gguf: Path, chats: list[list[Message]], *_: object, **how: object) -> list[Answer]:
        if "temperature" not in how:  # its exam
            return [Answer("[]", 1) for _ in chats]
        assert [chat[-1].content for chat in chats] == ["open maps"]
        return [Answer(answer, 1)]

    for place in ("workbench.stages.attempt.ask_all", "workbench.stages.export.ask_all"):
        monkeypatch.setattr(place, says)
    with TeacherServer(tmp_path / "log.jsonl", text="open maps") as teacher:
        sets = (f"teacher.base_url={teacher.base_url}", "sample.max_calls=12", "sample.hopeless_after=1",
                "train.max_steps=4", "select.empty_margin=-1")  # fmt: skip
        told = walk(project, "dagger", tiny, "fake", *sets, until="select.2")
    assert f"the student answered 1 of 1 inputs, {int(source == 'student')} pass" in told
    before, found = (
        [item.candidate for item in read_jsonl(stage(project, label) / "candidates.jsonl", Judgement)]
        for label in ("sample", "sample.2")
    )
    assert {one.source for one in before} == {"inverse"} and found[: len(before)] == before
    (first, *rest) = found[len(before) :]
    given_up = "sample: attempted: hopeless: 0 of 1 candidates passed; on to the task's own sources"
    assert (given_up in told) is (source == "attempted") and rest, "which have their own chance"
    assert (first.source, first.text, first.example.input) == (source, answer, {"text": "open maps"})
    assert first.example.target is None and {one.source for one in rest} == {"inverse"}
