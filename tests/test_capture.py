"""What a teacher thinks of rows: read rightly, stored, and learned from, on real models as small as they come."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import TASK, here, write_task
from transformers import PreTrainedModel

from workbench import registry
from workbench.config import Config, load_config
from workbench.errors import ConfigError
from workbench.logits import LogitFile
from workbench.plan import inputs_of, made_of, stages
from workbench.provenance import bill_of, told
from workbench.stages.attempt import try_method
from workbench.stages.context import read_jsonl
from workbench.students.divergence import Blend
from workbench.students.generate import Generator, Text
from workbench.students.load import load_model, load_tokenizer
from workbench.students.rendering import rendering_for
from workbench.students.settings import Captured, Pair
from workbench.students.taught import Said, Taught, end_of_turn, mixture, name_of, tokenizer_digest
from workbench.teachers import build
from workbench.teachers.reading import GgufReader
from workbench.teachers.whitebox import TransformersTeacher
from workbench.types import Message, Row

MESSAGES = (Message(role="system", content="Turn what is said into calls."), Message(role="user", content="open maps"))
ANSWERS = ('[{"name":"open_app","arguments":{"app":"maps"}}]', "[]", "Crème brûlée 🍮, 12:05")


def plainly(model: PreTrainedModel, ids: Sequence[int], written: int) -> torch.Tensor:
    """Log-probabilities before each of the last tokens, one text alone (C, V)."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0, -written - 1 : -1]
    return logits.log_softmax(-1)


def test_texts_are_scored_as_each_is_alone(smollm2_hf: Path) -> None:
    model = load_model(smollm2_hf, dtype=torch.float32)
    tokenizer = load_tokenizer(smollm2_hf)
    head = tuple(tokenizer("The capital of France is Paris, and that of Spain")["input_ids"])
    texts = [
        Text((*head, *tokenizer(end)["input_ids"]), written, name, shared)
        for name, (end, written, shared) in enumerate(
            [(" is Madrid.", 2, len(head)), (", by the way, is called Madrid", 5, 4), (" was once", 1, 0)]
        )
    ]
    wanted = [plainly(model, text.ids, text.written) for text in texts]
    found = dict(Generator(model, frozenset({2})).score(texts, 7))
    assert len(found) == len(texts)
    for text, logprobs in zip(texts, wanted, strict=True):
        top = logprobs.topk(7)
        torch.testing.assert_close(found[text].logprobs_C_K, top.values, atol=1e-4, rtol=0)
        assert torch.equal(found[text].ids_C_K, top.indices)


def test_a_teacher_reads_answers_as_it_writes_them(smollm2_hf: Path) -> None:
    """The end of its turn included; names come back with their own rows."""
    teacher = TransformersTeacher(smollm2_hf, model="t", licence="")
    asked = [(f"row {place}", MESSAGES, answer) for place, answer in enumerate(ANSWERS)]
    found = dict(teacher.score(asked, 5))
    tokenizer = load_tokenizer(smollm2_hf)
    for name, _, answer in asked:
        row = found[name]
        assert row.tokens_T[-1] == end_of_turn(smollm2_hf)
        assert tokenizer.decode(row.tokens_T[:-1]) == answer
        assert row.ids_T_K.shape == row.logprobs_T_K.shape == (len(row.tokens_T), 5)


def kd(folder: Path, teacher: Path, student: Path, *sets: str, until: str = "train") -> str:
    """A run on rows that nobody has to write; gives what was told."""
    settings = ("shots.mode=fixed", "select.recombine=12", "train.max_steps=4", "train.evals=1", "distil.k=8", *sets)
    done = here(
        folder, "run", "talk.py", "--until", until, "--method", "kd", "--teacher", f"hf:{teacher}", "--student", str(student),
        *(w for s in settings for w in ("--set", s)),
    )  # fmt: skip
    return done.stdout if not done.returncode else done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    (tmp_path / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    return tmp_path


def made(project: Path, stage: str) -> Path:
    lock: dict[str, Any] = json.loads(
        max(project.glob("runs/talk/*Z-*/lock.json"), key=lambda path: path.stat().st_mtime_ns).read_text()
    )
    return next(Path(entry["path"]) for entry in lock["stages"] if entry["stage"] == stage)


def test_a_run_learns_from_what_its_teacher_thinks(smollm2_hf: Path, tiny: Path, project: Path) -> None:
    first = kd(project, smollm2_hf, tiny)
    assert "stopped after train, as asked" in first, first
    (captured,) = json.loads((made(project, "capture") / "capture.json").read_text())["by"]
    rows = (made(project, "select") / "rows.jsonl").read_text().splitlines()
    assert captured["rows"] == len({(row["prompt"], row["completion"]) for row in map(json.loads, rows)})
    assert captured["k"] == 8
    summary = json.loads((made(project, "train") / "summary.json").read_text())
    assert summary["aligned"] == 1.0, "one tokenizer: it says something of each token"

    again = kd(project, smollm2_hf, tiny)
    assert again.count("skipped, nothing changed") == 6
    pool = f'pool.teachers=[{{model="hf:{tiny}", reads=0.5}}]'
    other = kd(project, smollm2_hf, tiny, "distil.weight=0.9", pool)
    assert "capture: runs" in other and "select: skipped" in other
    found = json.loads((made(project, "capture") / "capture.json").read_text())["by"]
    assert [each["weight"] for each in found] == [1.0, 0.5] and found[0]["file"] != found[1]["file"]
    assert json.loads((made(project, "train") / "summary.json").read_text())["aligned"] == 1.0


def test_a_student_larger_than_its_teacher_is_told(smollm2_hf: Path, tiny: Path, project: Path) -> None:
    said = kd(project, tiny, smollm2_hf, until="capture")
    assert f"the student {smollm2_hf} is larger than hf:{tiny}, which reads for it" in said
    assert "sample" not in said, "before the teacher is asked anything"


def test_a_teacher_behind_an_api_is_refused_before_it_is_paid() -> None:
    sets = ("distil.method=kd", "teacher.base_url=https://api.example.com/v1", "teacher.model=big")
    with pytest.raises(ConfigError, match="does not tell what it thinks"):
        load_config(sets=sets)


def test_only_a_run_that_learns_from_them_captures() -> None:
    assert "capture" not in {stage.name for stage in stages(Config())}
    config = Config.model_validate({"distil": {"method": "kd"}, "rounds": {"count": 2}})
    found = {stage.label: stage for stage in stages(config)}
    assert list(found)[3:6] == ["select", "capture", "train"]
    assert inputs_of(found["train.2"], 1)["capture"] == "capture.2"


def test_soft_targets_of_one_tokenizer_are_the_files_rows(smollm2_hf: Path, tmp_path: Path) -> None:
    teacher = TransformersTeacher(smollm2_hf, model="t", licence="")
    pairs = [Pair(prompt=f"say {place}", completion=answer) for place, answer in enumerate(ANSWERS)]
    path = write(tmp_path / "logits.bin", teacher, pairs)
    taught = Taught([Captured(path, smollm2_hf)], smollm2_hf, Blend(0.5), k=6)
    tokenizer = load_tokenizer(smollm2_hf)
    with LogitFile(path) as file:
        for pair in pairs:
            tokens = [*tokenizer(pair.completion)["input_ids"], end_of_turn(smollm2_hf)]
            soft, row = taught.of(pair, tokens), file[name_of(pair.prompt, pair.completion)]
            assert soft is not None and soft.ids_L_K.tolist() == row.ids_T_K.tolist()
            torch.testing.assert_close(soft.logprobs_L_K, torch.from_numpy(row.logprobs_T_K), check_dtype=False)
    assert taught.share == 1.0
    assert taught.of(Pair(prompt="another", completion="[]"), [5, 2]) is None


def test_what_two_teachers_say_is_mixed_by_their_weights() -> None:
    one = Said(np.array([[4, 5], [4, -1], [-1, -1]]), np.log([[0.6, 0.3], [0.9, 1e-30], [1e-30, 1e-30]]), 1.0)
    other = Said(np.array([[5, 6, 7], [-1, -1, -1], [-1, -1, -1]]), np.log(np.full((3, 3), 0.2)), 3.0)
    ids, logs = mixture([one, other], 3)
    # 4: 0.6 / 4; 5: 0.3 / 4 + 3 * 0.2 / 4; 6 and 7: 3 * 0.2 / 4
    assert ids[0].tolist()[0] == 5 and {*ids[0].tolist()[1:]} <= {4, 6, 7}
    assert np.exp(logs[0]).tolist() == pytest.approx([0.225, 0.15, 0.15])
    assert ids[1].tolist() == [4, -1, -1] and np.exp(logs[1][0]) == pytest.approx(0.9), "the other is silent there"
    assert ids[2].tolist() == [-1, -1, -1]
    assert logs.dtype == np.float32


def test_an_assistant_learns_the_rows_and_reads_them_in_the_teachers_place(
    smollm2_hf: Path, tiny: Path, project: Path
) -> None:
    """Trained as a student is, it reads as one: its own tokens, behind the prompt that the student will see."""
    said = kd(project, smollm2_hf, tiny, f"distil.assistant={tiny}", "distil.rows=3")
    assert "stopped after train, as asked" in said, said
    (found,) = json.loads((made(project, "capture") / "capture.json").read_text())["by"]
    assert found["teacher"] == f"the assistant {tiny}" and found["tokenizer"].endswith("merge/weights")
    assert found["rows"] == 3, "the first of those that were not recombined"
    weights = Path(found["tokenizer"])
    tokenizer, rendering = load_tokenizer(weights), rendering_for(weights)
    with LogitFile(made(project, "capture") / found["file"]) as file:
        rows = read_jsonl(made(project, "select") / "rows.jsonl", Row)
        pair, name = next((r, n) for r in rows if (n := name_of(r.prompt, r.completion)) in file)
        assert pair.source != "recombine"
        row = file[name]
    text = rendering.prompt(pair.prompt) + rendering.completion(pair.completion)
    wanted = plainly(load_model(weights, dtype=torch.float32), tokenizer(text)["input_ids"], len(row.tokens_T))
    there = wanted.gather(1, torch.from_numpy(row.ids_T_K).long())
    torch.testing.assert_close(
        there, torch.from_numpy(row.logprobs_T_K), atol=0.2, rtol=0, msg="bf16, and stored in steps"
    )
    api = ("teacher.base_url=https://api.example.com/v1", "teacher.model=big", "distil.method=kd")
    assert load_config(sets=(*api, "distil.assistant=m")).distil.assistant == "m", "the API need not tell anything"


def test_a_gguf_is_read_by_the_engine_that_it_writes_in(
    smollm2: Path, tiny: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for able, engine, kind in (
        (True, "auto", TransformersTeacher),
        (False, "auto", GgufReader),
        (False, "torch", TransformersTeacher),
        (True, "llama.cpp", GgufReader),
    ):
        monkeypatch.setattr(build, "multiplies_bf16", lambda able=able: able)
        config = load_config(sets=(f"teacher.model={smollm2}", f"teacher.engine={engine}")).teacher
        assert isinstance(build.reader_of(config), kind)
    assert isinstance(build.reader_of(config.model_copy(update={"model": "hf:m"})), TransformersTeacher)
    done = here(
        project, "run", "talk.py", "--until", "train", "--method", "kd", "--teacher", str(smollm2), "--student", str(tiny),
        *(w for s in ("teacher.engine=llama.cpp", "shots.mode=fixed", "select.recombine=0", "train.max_steps=2",
                      "train.evals=1", "distil.k=8") for w in ("--set", s)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((made(project, "capture") / "capture.json").read_text())["by"]
    assert found["teacher"].endswith("in llama.cpp") and found["k"] == 8
    assert found["rows"] == len({row.prompt for row in read_jsonl(made(project, "select") / "rows.jsonl", Row)})
    assert json.loads((made(project, "train") / "summary.json").read_text())["aligned"] == 1.0


def test_who_cannot_read_is_told_before_a_teacher_is_paid(project: Path) -> None:
    task, reads = registry.load(str(project / "talk.py")), 'pool.teachers=[{model="hf:m", reads=0.5}]'
    for sets in ((reads,), ("distil.assistant=hf:m",)):
        with pytest.raises(ConfigError, match="of what hf:m think nothing is learned"):
            try_method(task, load_config(sets=sets))
    with pytest.raises(ConfigError, match="runs here"):
        load_config(sets=('pool.teachers=[{model="m", base_url="http://a/v1", reads=1}]',))
    api = ("teacher.base_url=https://api.example.com/v1", "teacher.model=big", "distil.method=kd")
    with pytest.raises(ConfigError, match="big writes inputs alone"):
        try_method(replace(task, sources=("inverse",)), load_config(sets=(*api, "teacher.top_logprobs=5")))
    try_method(task, load_config(sets=(*api, reads)))  # another reads for it


def test_how_much_one_counts_who_reads_asks_nobody_anew() -> None:
    half, third = (
        load_config(sets=("distil.method=kd", f'pool.teachers=[{{model="hf:m", reads={weight}}}]'))
        for weight in (0.5, 0.3)
    )
    keys = [
        {stage.label: made_of(stage, "", config, {})["config"] for stage in stages(config)} for config in (half, third)
    ]
    assert [label for label in keys[0] if keys[0][label] != keys[1][label]] == ["capture"]
    one, other = (
        load_config(sets=("distil.method=kd", "distil.assistant=m", f"distil.k={k}", f"train.resplit={share}"))
        for k, share in ((5, 0.0), (6, 0.5))
    )
    keys = [
        {stage.label: made_of(stage, "", config, {})["config"] for stage in stages(config)} for config in (one, other)
    ]
    assert keys[0]["assistant"] == keys[1]["assistant"] and keys[0]["capture"] != keys[1]["capture"]


@pytest.mark.parametrize("loss", ["weight=0.3", "temperature=2", "divergence='jsd'", "beta=0.3", "fresh=0.5"])
def test_for_another_loss_the_teacher_reads_nothing_anew(loss: str) -> None:
    made = [
        {stage.label: made_of(stage, "", load_config(sets=("distil.method=gkd", *sets)), {}) for stage in found}
        for found, sets in (
            (stages(load_config(sets=("distil.method=gkd",))), some) for some in ((), (f"distil.{loss}",))
        )
    ]
    anew = {label for label in made[0] if made[0][label] != made[1][label]}
    assert "train.2" in anew and not anew & {"attempt.2", "capture.2"}


def test_for_a_last_mile_the_teacher_reads_nothing_anew_and_the_student_is_trained_anew() -> None:
    plain, mile = (load_config(sets=("distil.method=kd", *sets)) for sets in ((), ("distil.last_mile=0.3",)))
    plain_keys, mile_keys = (
        {stage.label: made_of(stage, "", config, {}) for stage in stages(config)} for config in (plain, mile)
    )
    assert plain_keys["capture"] == mile_keys["capture"]
    assert (
        mile_keys["train"]["environment"]["rounded"] == "Q4_0 0.3, beside the best of before"
        and "rounded" not in plain_keys["train"]["environment"]
    )
    with pytest.raises(ConfigError, match="with rounded weights there is none"):
        load_config(sets=("distil.last_mile=0.3", "train.dropout=0.1"))


def test_a_last_mile_of_the_text_alone_is_in_the_bill_of_materials(project: Path) -> None:
    task = registry.load(str(project / "talk.py"))
    sft = "distil.method=sft"
    plain, mile = (bill_of(task, load_config(sets=sets), [], "0") for sets in ((sft,), (sft, "distil.last_mile=0.3")))
    assert not [line for line in told(plain) if line.startswith("method")]
    assert "method   sft: the rows' text, in the last 30% of the steps by weights rounded to the Q4_0 grid" in told(
        mile
    )


def test_who_read_is_in_the_bill_of_materials(project: Path) -> None:
    reader = 'pool.teachers=[{model="qwen2.5-coder-0.5b-instruct", reads=0.5}]'
    bill = bill_of(registry.load(str(project / "talk.py")), load_config(sets=("distil.method=kd", reader)), [], "0")
    assert bill.readers == (("qwen2.5-coder-0.5b-instruct", "Apache-2.0"),)
    assert "read by  qwen2.5-coder-0.5b-instruct, Apache-2.0" in told(bill)


def write(path: Path, teacher: TransformersTeacher, pairs: Sequence[Pair]) -> Path:
    from workbench.logits import LogitWriter

    folder = teacher.folder()
    asked = [(name_of(pair.prompt, pair.completion), MESSAGES, pair.completion) for pair in pairs]
    with LogitWriter(
        path, tokenizer=str(folder), fingerprint=tokenizer_digest(folder), vocabulary=teacher.vocabulary, k=6
    ) as file:
        for name, row in teacher.score(asked, 6):
            file.add(name, row)
    return path
