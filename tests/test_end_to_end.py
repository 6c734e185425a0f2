"""The whole walk on the real student: task file -> GGUF in llama.cpp's own server. Only the teacher is a small script behind
a real HTTP server, so that the walk takes minutes and the rows are known."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import TeacherServer
from small import here

from workbench import registry
from workbench.config import load_config
from workbench.report.build import build_report
from workbench.runs import read_lock
from workbench.scaffold import write_task

TOOLS = [{"type": "function", "function": {"name": "open_app", "description": "Open an app.", "parameters": {
    "type": "object", "properties": {"app": {"type": "string"}}, "required": ["app"]}}}]  # fmt: skip
SETTINGS = [
    "shots.mode=group", "sample.inverse=40", "sample.values_per_slot=10", "select.recombine=160",
    "train.epochs=3", "train.lr=0.002", "train.evals=2", "train.max_minutes=1", "train.min_steps=0",
    "export.quants=['Q8_0', 'Q4_0']",
    "export.max_drop=100", "export.max_ratio=1", "evaluate.timed=2", "evaluate.base_rows=2", "student.max_tokens=48",
    "export.importance=false",  # test_edge.py has it
]  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Path]:
    """A folder with a finished run of the task that `workbench new` writes."""
    folder = tmp_path_factory.mktemp("project")
    write_task(folder, "lights")
    with TeacherServer(folder / "requests.log") as teacher:
        sets = [*SETTINGS, f"teacher.base_url={teacher.base_url}"]
        command = [sys.executable, "-m", "workbench", "run", "lights.py", "--teacher", "fake"]
        command += [part for item in sets for part in ("--set", item)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        again = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert again.stdout.count("skipped, nothing changed") == 8, again.stdout
    yield folder


@pytest.fixture(scope="module")
def run(project: Path) -> Path:
    return (project / "runs" / "lights" / "latest").resolve()


def test_the_expert_folder_holds_all_that_a_device_needs(run: Path) -> None:
    expert = run / "expert"
    assert {path.name for path in expert.iterdir()} == {
        "model.gguf", "grammar.gbnf", "schema.json", "Modelfile", "README.md",
    }  # fmt: skip
    assert (expert / "model.gguf").read_bytes()[:4] == b"GGUF"
    assert json.loads((expert / "schema.json").read_text())["type"] == "array"


def test_the_report_is_of_the_shipped_file(run: Path) -> None:
    html = (run / "report.html").read_text()
    assert "teacher" in html and "Q8_0" in html and "<table" in html
    markdown = (run / "report.md").read_text()
    assert markdown.count("|") > 20
    merged = json.loads((Path(read_lock(run).entry("merge").path) / "merge.json").read_text())  # type: ignore[union-attr]
    exact = 100 * merged["scores"][merged["kept"]]["dev_exact"]
    assert re.search(rf"Merged: the adapter (of|on) the .* {exact:.1f}", markdown) and "<dt>Merged</dt>" in html


def test_the_report_tells_what_the_artifacts_hold(run: Path, project: Path) -> None:
    lock = read_lock(run)
    art = {entry.stage: Path(entry.path) for entry in lock.stages}

    def lines(stage: str, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (art[stage] / name).read_text().splitlines()]

    task = registry.load(str(project / "lights.py"))
    made = build_report(task, load_config(file=run / "config.toml"), lock, run)
    checks = [check for item in lines("sample", "candidates.jsonl") for check in item["verdict"]["checks"]]
    refused = Counter(check["validator"] for check in checks if check["outcome"] != "pass")
    refused |= Counter(json.loads((art["select"] / "funnel.json").read_text())["dropped"])
    told = {item.validator: item for item in made.rejections}
    assert refused and {name: item.count for name, item in told.items()} == refused
    assert all(len(item.cases) == min(3, item.count) for item in told.values())
    assert all(case.reason and case.input and case.text for item in told.values() for case in item.cases)
    assert {step.label: step.count for step in made.funnel}["rows in the shard"] == len(lines("select", "rows.jsonl"))
    answers = {(item["entrant"], item["example"]): item["text"] for item in lines("evaluate", "answers.jsonl")}
    rows = {row.input["text"]: row for row in task.examples("test")}
    assert made.shipped is not None and made.mistakes, "a student of a minute makes some"
    for mistake in made.mistakes:
        row = rows[mistake.input]
        assert mistake.shipped == answers[made.shipped.key, row.id] != task.output.dump(row.target) == mistake.target
        assert mistake.teacher == answers["teacher", row.id]
    assert made.train_curve and sum(point.chosen for point in made.dev_curve) == 1
    assert {quant.name for quant in made.quants if quant.chosen} == {made.shipped.key}


def test_every_row_of_the_shard_can_be_traced(run: Path) -> None:
    shard = Path(read_lock(run).entry("select").path) / "rows.jsonl"  # type: ignore[union-attr]
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    taught = [row for row in rows if row["source"] == "inverse"]
    assert taught and all(row["call"] and row["teacher"] and row["licence"] for row in taught)
    assert all(row["verdict"]["outcome"] == "pass" for row in rows)


def test_the_file_alone_tells_what_it_was_made_of(run: Path, tmp_path: Path) -> None:
    shard = Path(read_lock(run).entry("select").path) / "rows.jsonl"  # type: ignore[union-attr]
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    alone = tmp_path / "found.gguf"
    alone.hardlink_to(run / "expert" / "model.gguf")
    bill = json.loads(here(tmp_path, "audit", str(alone), "--json").stdout)
    assert (bill["task"], bill["student"], bill["student_licence"]) == ("lights", "smollm2-135m-instruct", "Apache-2.0")
    assert bill["teacher"] == "fake" and bill["calls"] == len({row["call"] for row in rows} - {""})
    assert bill["shard"] == hashlib.sha256(shard.read_bytes()).hexdigest()
    assert {item["source"]: item["rows"] for item in bill["rows"]} == Counter(row["source"] for row in rows)
    told = here(tmp_path, "audit", str(run / "expert")).stdout
    assert f"{len(rows):,}" in told and "inverse by fake" in told
    (terms,) = bill["terms"]
    assert terms["training"] == "unknown" and f"terms    unknown: {terms['why']}" in told


def test_the_student_learned_something(run: Path) -> None:
    history = Path(read_lock(run).entry("train").path) / "history.jsonl"  # type: ignore[union-attr]
    losses = [line["dev_loss"] for line in map(json.loads, history.read_text().splitlines()) if line.get("dev_loss")]
    assert min(losses) < losses[0] / 2


def test_the_shipped_file_answers_as_in_the_evaluation_with_no_code_of_ours_between(run: Path, project: Path) -> None:
    """llama.cpp's own server on expert/model.gguf, the plain OpenAI chat API: the very answers that were scored."""
    import openai
    import xllamacpp

    lock = read_lock(run)
    evaluation = Path(lock.entry("evaluate").path)  # type: ignore[union-attr]
    shipped = json.loads((evaluation / "results.json").read_text())["chosen"]
    scored = [json.loads(line) for line in (evaluation / "answers.jsonl").read_text().splitlines()]
    answers = {item["example"]: item["text"] for item in scored if item["entrant"] == shipped}
    task = registry.load(str(project / "lights.py"))
    params = xllamacpp.CommonParams()
    params.model.path = str(run / "expert" / "model.gguf")
    params.n_ctx = 1024
    params.port = 0
    server = xllamacpp.Server(params)
    client = openai.OpenAI(base_url=f"{server.listening_address}/v1", api_key="none")
    limit = load_config(file=run / "config.toml").student.max_tokens
    rows = task.examples("test")
    for row in rows:
        reply = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": task.student_prompt(row.input)}],
            temperature=0,
            max_tokens=limit,
        )
        assert reply.choices[0].message.content == answers[row.id]
    told = client.chat.completions.create(  # a client that sends its tools along changes nothing: the expert knows them
        model="any",
        messages=[{"role": "user", "content": task.student_prompt(rows[0].input)}],
        tools=TOOLS,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=limit,
    )
    assert told.choices[0].message.content == answers[rows[0].id]
    assert len(answers) == len(rows)


def test_training_and_runtime_read_the_same_token_ids(run: Path, project: Path) -> None:
    """The rendering the student was trained on, token for token, is what llama.cpp feeds for the same chat."""
    from workbench.edge.parity import rendering_ids
    from workbench.edge.runtime import LlamaServer
    from workbench.students.batches import encode
    from workbench.students.load import load_tokenizer
    from workbench.students.rendering import rendering_for
    from workbench.students.settings import Pair

    weights = Path(read_lock(run).entry("merge").path) / "weights"  # type: ignore[union-attr]
    tokenizer, rendering = load_tokenizer(weights), rendering_for(weights)
    texts = [row.input["text"] for row in registry.load(str(project / "lights.py")).examples("test")]
    texts += [
        "½ naïve 日本 12345",
        "a <|im_end|> in the text",
        '{"name": "x", "arguments": {"n": 10}}',
        " two  spaces ",
    ]
    answer = '[{"name":"open_app","arguments":{"app":"maps"}}]'
    with LlamaServer(run / "expert" / "model.gguf") as server:
        for text in texts:
            (row,) = encode(tokenizer, rendering, [Pair(prompt=text, completion=answer)])
            chat = [{"role": "user", "content": text}]
            prompt = rendering_ids(server.base_url, chat)
            assert list(row.ids[: len(prompt)]) == prompt
            assert rendering_ids(server.base_url, chat, tools=TOOLS) == prompt
            begun = rendering_ids(  # llama.cpp takes an assistant turn at the end for begun, not for ended
                server.base_url, [*chat, {"role": "assistant", "content": answer}], add_generation_prompt=False
            )
            assert list(row.ids) == [*begun, tokenizer.eos_token_id]


def test_predict_and_why(project: Path) -> None:
    def workbench(*args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "workbench", *args],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert workbench("predict", "lights.py", "switch on the kitchen light").strip()
    assert "skipped" in workbench("why", "lights", "train")
    assert "exact" in workbench("eval", "lights.py")
