"""Whether a teacher's outputs may train a model: which terms apply, that a run stops before it asks, and what is recorded."""

import getpass
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from servers import TeacherServer
from small import here, write_task

from workbench import models, registry
from workbench.config import Config, TeacherConfig
from workbench.errors import ConfigError, StoreError, TermsError
from workbench.licences import Policy, policy_of, table
from workbench.provenance import Bill, bill_of, told
from workbench.runs import read_lock
from workbench.terms import read_acceptances, settle

OWN = """
[[policy]]
name = "{name}"
models = ["fake*"]
training = "{training}"
clause = '''{clause}'''
source = "https://example.org/terms"
checked = 2026-01-02
"""


def named(model: str, base_url: str = "", project: Path = Path("nowhere")) -> Policy:
    return policy_of(TeacherConfig(model=model, base_url=base_url), table(project))


def own(project: Path, training: str, clause: str = "No training.", name: str = "fake-terms") -> None:
    (project / "licences.toml").write_text(OWN.format(name=name, training=training, clause=clause))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_task(tmp_path)
    return tmp_path


def run(project: Path, url: str, *more: str, until: str = "shots") -> CompletedProcess[str]:
    """As far as a stage that the teacher belongs to, but in a mode that asks it for nothing."""
    sets = ("--set", f"teacher.base_url={url}", "--set", "shots.mode=fixed")
    return here(project, "run", "talk.py", "--teacher", "fake", "--until", until, *sets, *more)


# --- which terms apply ---


@pytest.mark.parametrize(
    ("model", "base_url", "name", "training"),
    [
        ("gpt-4.1-mini", "https://api.openai.com/v1", "openai", "forbidden"),
        ("our-tuned-one", "https://eu.api.openai.com/v1", "openai", "forbidden"),
        ("openai/gpt-4.1", "https://openrouter.ai/api/v1", "openai", "forbidden"),
        ("openai/gpt-oss-20b", "https://openrouter.ai/api/v1", "gpt-oss", "allowed"),
        ("claude-sonnet-4-5", "https://api.anthropic.com/v1", "anthropic", "forbidden"),
        ("us.anthropic.claude-sonnet-4", "https://bedrock.example.com", "anthropic", "forbidden"),
        ("gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1beta/openai", "google-gemini", "forbidden"),
        ("grok-4", "https://api.x.ai/v1", "xai", "forbidden"),
        ("deepseek-chat", "https://api.deepseek.com", "deepseek", "allowed"),
        ("open-mistral-7b", "https://api.mistral.ai/v1", "mistral-api", "conditions"),
        ("hf:meta-llama/Llama-2-7b-chat-hf", "", "llama-2", "forbidden"),
        ("hf:meta-llama/Meta-Llama-3-8B-Instruct", "", "llama-3", "forbidden"),
        ("/data/Llama-3.2-1B-Instruct-Q4_K_M.gguf", "", "llama-3.1", "conditions"),
        ("llama3.1:8b", "http://localhost:11434/v1", "llama-3.1", "conditions"),
        ("hf:deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "", "llama-3.1", "conditions"),
        ("hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "", "deepseek-mit", "allowed"),
        ("hf:deepseek-ai/DeepSeek-V3", "", "deepseek-licence", "conditions"),
        ("gemma2:9b", "http://localhost:11434/v1", "gemma", "conditions"),
        ("google/gemma-4-31B-it", "http://localhost:8000/v1", "gemma-4", "allowed"),
        ("hf:Qwen/Qwen2.5-3B-Instruct", "", "qwen-research", "conditions"),
        ("qwen/qwen-2.5-72b-instruct", "http://localhost:8000/v1", "qwen-licence", "conditions"),
        ("qwen/qwen-2.5-7b-instruct", "http://localhost:8000/v1", "qwen-apache", "allowed"),
        ("hf:Qwen/Qwen1.5-7B-Chat", "", "qwen-tongyi", "forbidden"),
        ("qwen3:8b", "http://localhost:11434/v1", "qwen-apache", "allowed"),
        ("mistral-7b-instruct-v0.3.Q4_K_M.gguf", "", "mistral-apache", "allowed"),
        ("hf:mistralai/Mistral-Large-Instruct-2411", "", "mistral-research", "conditions"),
        ("phi4", "http://localhost:11434/v1", "phi", "allowed"),
        ("qwen3-max", "https://dashscope.example.com/v1", "unknown", "unknown"),
        ("/home/llama-3-fans/model.gguf", "", "unknown", "unknown"),
        ("fake", "http://127.0.0.1:1/v1", "unknown", "unknown"),
    ],
)
def test_which_terms_apply(model: str, base_url: str, name: str, training: str) -> None:
    policy = named(model, base_url)
    assert (policy.name, policy.training) == (name, training), policy.why


@pytest.mark.parametrize("name", list(models.CATALOGUE))
def test_the_catalogue_is_allowed(name: str) -> None:
    assert named(name).clear


def test_known_weights_at_a_service_without_an_entry() -> None:
    policy = named("openai/gpt-oss-20b", "https://openrouter.ai/api/v1")
    assert policy.training == "allowed" and not policy.clear
    assert policy.sentence.endswith("; the terms of openrouter.ai itself are not in the table")
    assert named("gpt-oss:20b", "http://localhost:11434/v1").clear


def test_the_table_is_whole() -> None:
    entries = table(Path("nowhere"))
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names))
    for entry in entries:
        assert entry.source.startswith("https://")
        assert date(2023, 1, 1) < entry.checked <= date.today()
        assert "\n" not in entry.clause
    text = Path(sys.modules["workbench.licences"].__file__ or "").with_suffix(".toml").read_text()
    assert max(map(len, text.splitlines())) <= 128


def test_nothing_heavy_is_loaded() -> None:
    heavy = ("torch", "transformers", "dspy", "openai", "numpy", "jinja2", "matplotlib", "typer")
    code = f"import sys, workbench.licences, workbench.terms; print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the project's own table ---


def test_an_own_entry_wins(project: Path) -> None:
    own(project, "allowed", name="our-contract")
    assert named("fake", "https://api.openai.com/v1", project).name == "our-contract"
    own(project, "allowed", name="openai")
    assert named("fake", "", project).training == "allowed"
    replaced = named("gpt-4.1", "https://api.openai.com/v1", project)
    assert replaced.training == "unknown", "an entry takes the place of the built-in one of its name"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("fake-terms", "Fake Terms", "policy.0.name: "),
        ('"forbidden"', '"perhaps"', "policy.0.training: Input should be"),
        ("2026-01-02", '"last year"', "policy.0.checked: "),
        ('models = ["fake*"]', "", "fake-terms names neither hosts nor models"),
        ('source = "https://example.org/terms"', "", "policy.0.source: Field required"),
        ("clause = ", "clause : ", "Expected '='"),
    ],
)
def test_an_own_table_at_fault(project: Path, old: str, new: str, says: str) -> None:
    own(project, "forbidden")
    file = project / "licences.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        table(project)
    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)
    assert caught.value.hint


# --- before a teacher is asked ---


def test_forbidden_stops_before_the_first_request(project: Path) -> None:
    own(project, "forbidden")
    with TeacherServer(project / "log.jsonl") as server:
        done = run(project, server.base_url, "--set", "shots.mode=auto", until="select")
        assert server.count == 0
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert "the terms of fake-terms speak against training on its outputs: No training." in error
    assert "(https://example.org/terms, as of 2026-01-02)" in error
    assert hint.endswith("--accept-terms fake-terms")
    assert not (project / "runs").exists()
    assert not (project / ".workbench" / "terms.jsonl").exists()
    dry = run(project, server.base_url, "--dry-run")
    assert dry.stderr == done.stderr, "a dry run says what the run would say"
    assert run(project, server.base_url, until="examples").returncode == 0, "where no teacher is asked, none is judged"


def test_what_was_accepted_is_recorded_and_remembered(project: Path) -> None:
    own(project, "forbidden")
    file = project / ".workbench" / "terms.jsonl"
    url = "http://127.0.0.1:1/v1"
    assert run(project, url, "--accept-terms", "fake-terms", "--dry-run").returncode == 0
    assert not file.exists(), "a dry run records nothing"
    done = run(project, url, "--accept-terms", "fake-terms")
    assert done.returncode == 0, done.stderr
    (line,) = file.read_text().splitlines()
    record = json.loads(line)
    assert record["who"].startswith(f"{getpass.getuser()}@")
    assert record["at"].endswith("+00:00")
    assert [record[key] for key in ("name", "training", "clause", "source", "checked")] == [
        "fake-terms", "forbidden", "No training.", "https://example.org/terms", "2026-01-02"
    ]  # fmt: skip
    assert record["command"].endswith("--accept-terms fake-terms")
    for more in ((), ("--accept-terms", "fake-terms")):
        again = run(project, url, *more)
        assert again.returncode == 0, again.stderr
        told = "terms: fake-terms, training forbidden: No training. (https://example.org/terms, as of 2026-01-02)"
        assert f"{told}; accepted by {record['who']} at {record['at']}" in again.stdout
    assert file.read_text() == f"{line}\n"
    (written,) = read_lock(max(project.glob("runs/talk/*Z-*"))).terms
    assert (written.name, written.accepted_by, written.accepted_at) == ("fake-terms", record["who"], record["at"])
    assert f"terms: {written.sentence}" in again.stdout, "what the report shows"


def test_who_accepted_what_is_in_the_bill_of_materials(project: Path) -> None:
    own(project, "forbidden")
    settled = settle(TeacherConfig(model="fake"), project, ["fake-terms"], "", dry=False)
    bill = bill_of(registry.load(str(project / "talk.py")), Config(), [], "0", terms=[settled, settled])
    assert Bill.model_validate_json(bill.model_dump_json()).terms == (settled,)
    said = [line for line in told(bill) if line.startswith("terms")]
    assert said == [f"terms    {settled.sentence}"] and said[0].endswith(
        f"by {settled.accepted_by} at {settled.accepted_at}"
    )


def test_a_changed_clause_is_asked_anew(project: Path) -> None:
    teacher = TeacherConfig(model="fake")
    own(project, "forbidden")
    first = settle(teacher, project, ["fake-terms"], "first", dry=False)
    own(project, "forbidden", clause="No\n  training.")
    assert settle(teacher, project, [], "reflowed", dry=False).accepted_by == first.accepted_by
    own(project, "forbidden", clause="No training at all.")
    with pytest.raises(TermsError, match=f"another one than {first.accepted_by} accepted at"):
        settle(teacher, project, [], "second", dry=False)
    settle(teacher, project, ["fake-terms", "fake-terms"], "third", dry=False)
    commands = [item.command for item in read_acceptances(project / ".workbench" / "terms.jsonl")]
    assert commands == ["first", "third"]


def test_a_name_that_is_none(project: Path) -> None:
    done = run(project, "http://127.0.0.1:1/v1", "--accept-terms", "opanai")
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "error: --accept-terms opanai: the table has no such entry"
    assert "openai" in hint


def test_a_torn_record_is_not_guessed(project: Path) -> None:
    file = project / ".workbench" / "terms.jsonl"
    file.parent.mkdir()
    file.write_text('{"at": "2026-01-')
    with pytest.raises(StoreError, match="line 1 is no acceptance"):
        settle(TeacherConfig(model="fake"), project, [], "", dry=False)


def test_conditions_and_unknown_are_told_and_go_on(project: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    done = run(project, url)
    assert done.returncode == 0, done.stderr
    assert "terms: unknown: no entry of the table names fake or 127.0.0.1; whether its outputs may" in done.stdout
    own(project, "conditions", clause="Name it Fake.")
    done = run(project, url, "--dry-run")
    assert done.stdout.splitlines()[0] == (
        "terms: fake-terms, training conditions: Name it Fake. (https://example.org/terms, as of 2026-01-02)"
    )
    own(project, "allowed")
    assert "terms:" not in run(project, url, "--dry-run").stdout


# --- the verb ---


def test_the_verb(project: Path) -> None:
    shown = here(project, "licences")
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ["openai", "forbidden", "2026-01-01", "https://openai.com/policies/services-agreement/"] in rows
    assert len(rows) == len(table(project))

    asked = here(project, "licences", "--teacher", "any", "--set", "teacher.base_url=https://api.anthropic.com/v1")
    sentence, why, note, stops = asked.stdout.splitlines()
    assert sentence.startswith("anthropic, training forbidden: Usage Policy: ")
    assert why == "because its host api.anthropic.com fits api.anthropic.com"
    assert note.startswith("note: ")
    assert stops == "a run with it stops, unless you give --accept-terms anthropic"

    unknown = here(project, "licences", "--teacher", "fake").stdout
    assert unknown.startswith("unknown: no entry of the table names fake; ")
    assert str(project / "licences.toml") in unknown
