"""The edge, with real files: the 135M base model cut down to four layers; llama.cpp's converter, quantizer, server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import edge
from workbench.edge import child
from workbench.edge.convert import check_export
from workbench.edge.expert import grammar, modelfile
from workbench.edge.gguf_file import open_gguf, value
from workbench.edge.imatrix import read_imatrix
from workbench.edge.parity import rendering, tokenize
from workbench.edge.template import end_of_turn, go_template
from workbench.errors import EdgeError, StudentError
from workbench.students.rendering import Rendering

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = Rendering(TEMPLATE, "<|im_end|>")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"const": "set_timer"}, "minutes": {"type": "integer"}, "kind": {"enum": ["tea", "egg"]}},
    "required": ["name", "minutes", "kind"],
    "additionalProperties": False,
}
ROWS = [
    f"<|im_start|>user\nset a timer for {n} minutes for the tea<|im_end|>\n"
    f'<|im_start|>assistant\n{{"name": "set_timer", "minutes": {n}, "kind": "tea"}}<|im_end|>\n'
    for n in range(1, 17)
]
HARD_TEXTS = [
    "set a timer for 1234567890 minutes, 3.14159 % of 1,000,000",
    "  leading, double  and trailing spaces  \n\n\n\ttabs\r\nand CRLF ",
    "naïve café, Zürich, İstanbul, ﬁne, e\u0301 combined, \u200b zero width",
    "日本語のテキストと中文，한국어 កាន់តែពិសេស नमस्ते",
    "🦙🚀 👩‍👩‍👧‍👦 flags 🇨🇭, maths ∑∫√, arrows →⇒",
    'I\'ve you\'re WE\'LL "quoted" {"a": [1, 2, {"b": null}]} </s> <s>',
    "<|im_start|>user inside<|im_end|> and <|endoftext|> and <|im_start and |im_end|>",
    "snake_case camelCase https://example.org/a?b=c&d=%20#e\\n C:\\path\\new",
    "",
]


@pytest.fixture(scope="session")
def base(smollm2: Path) -> Path:
    return smollm2


@pytest.fixture(scope="session")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged HF folder as the students stage leaves it: tokenizer and weights rebuilt from the GGUF, four layers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    out = tmp_path_factory.mktemp("merged")
    model: Any = AutoModelForCausalLM.from_pretrained(
        base.parent, gguf_file=base.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.model.layers = model.model.layers[:4]
    model.config.num_hidden_layers = 4
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(base.parent, gguf_file=base.name).save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def full(base: Path, folder: Path) -> Path:
    """The 16-bit GGUF of `folder`."""
    return edge.to_gguf(folder, folder.parent / "full.gguf", WORDS, base, name="timer")


@pytest.fixture(scope="session")
def imatrix(folder: Path, full: Path) -> Path:
    return edge.importance(folder, full, ROWS, folder.parent / "rows.imatrix.gguf")


@pytest.fixture(scope="session")
def server(full: Path) -> Iterator[edge.LlamaServer]:
    with edge.LlamaServer(full, ctx_per_slot=512, threads=1) as running:
        yield running


# -- the package -------------------------------------------------------------------------------------------------------


def test_importing_the_edge_is_light() -> None:
    code = "import sys, workbench.edge as e; e.LlamaServer; e.to_gguf; e.quantize; e.write_expert; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=child.environment(), capture_output=True, check=True)
    assert not {"torch", "transformers", "gguf", "cyllama", "xllamacpp", "numpy"} & set(said.stdout.decode().split())


def test_public_verbs() -> None:
    assert all(getattr(edge, name) for name in edge.__all__)
    with pytest.raises(AttributeError):
        _ = edge.nothing_of_the_kind


# -- convert -----------------------------------------------------------------------------------------------------------


def test_the_gguf_says_what_a_shipped_expert_needs(full: Path, base: Path) -> None:
    reader = open_gguf(full)
    tokens = value(reader, "tokenizer.ggml.tokens")
    assert value(reader, "tokenizer.chat_template") == TEMPLATE
    assert tokens[value(reader, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert value(reader, "tokenizer.ggml.padding_token_id") != value(reader, "tokenizer.ggml.eos_token_id")
    assert value(reader, "tokenizer.ggml.add_bos_token") is False
    assert value(reader, "general.license") == "apache-2.0"
    assert value(reader, "general.name") == "timer"
    assert tokens == value(open_gguf(base), "tokenizer.ggml.tokens")
    assert {t.tensor_type.name for t in reader.tensors} == {"BF16", "F32"}


def test_the_base_file_itself_is_refused_as_an_export(base: Path) -> None:
    with pytest.raises(EdgeError, match=r"chat template is not the one given.*padding token is its eos"):
        check_export(base, WORDS)


def test_without_the_base_gguf_the_tokenizer_is_the_same(folder: Path, full: Path, tmp_path: Path) -> None:
    alone = open_gguf(edge.to_gguf(folder, tmp_path / "alone.gguf", WORDS))
    both = open_gguf(full)
    for key in ("tokens", "merges", "token_type", "pre", "eos_token_id", "padding_token_id", "add_bos_token"):
        assert value(alone, f"tokenizer.ggml.{key}") == value(both, f"tokenizer.ggml.{key}"), key


def test_a_vocabulary_with_a_new_token_keeps_the_pre_tokenizer(folder: Path, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    tooled = Rendering(TEMPLATE.replace("<|im_end|>", "<|tool|>"), "<|tool|>")
    made = edge.to_gguf(tmp_path / "grown", tmp_path / "grown.gguf", tooled, base)
    reader = open_gguf(made)
    assert value(reader, "tokenizer.ggml.pre") == "smollm"
    assert value(reader, "tokenizer.ggml.tokens")[49152:] == ["<|tool|>"]
    assert value(reader, "tokenizer.ggml.eos_token_id") == 49152
    text = "12 tea <|tool|> 🦙"
    assert tokenize(made, text) == tokenizer(text, add_special_tokens=False).input_ids


def test_a_template_without_an_end_of_turn_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="nothing would stop the expert"):
        edge.to_gguf(folder, tmp_path / "x.gguf", Rendering("{% for m in messages %}{{ m.content }}{% endfor %}", ""))
    with pytest.raises(EdgeError, match="not one of its special tokens"):
        edge.to_gguf(
            folder, tmp_path / "x.gguf", Rendering("{% for m in messages %}{{ m.content }} over.{% endfor %}", " over.")
        )
    assert list(tmp_path.iterdir()) == []


# -- parity ------------------------------------------------------------------------------------------------------------


def test_llama_cpp_and_transformers_agree_on_every_token(server: edge.LlamaServer, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    for text in HARD_TEXTS:
        assert tokenize(server.base_url, text) == tokenizer(text, add_special_tokens=False).input_ids, text
        chat = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(
            chat, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        assert rendering(server.base_url, chat) == rendered
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
        assert edge.rendering_ids(server.base_url, chat) == ids


def test_the_ids_are_those_that_are_fed(server: edge.LlamaServer) -> None:
    from openai import OpenAI

    chat: Any = [{"role": "user", "content": "tea, 12 minutes 🦙"}]
    client = OpenAI(base_url=server.base_url, api_key="none")
    reply = client.chat.completions.create(model=server.alias, messages=chat, max_tokens=1, temperature=0)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(edge.rendering_ids(server.base_url, chat))


# -- importance and quantize -------------------------------------------------------------------------------------------


def test_the_importance_matrix_covers_every_matrix_of_every_block(imatrix: Path, full: Path) -> None:
    means = read_imatrix(imatrix)
    widths = {t.name: int(t.shape[0]) for t in open_gguf(full).tensors if len(t.shape) == 2 and t.name[:4] == "blk."}
    assert {name: len(mean) for name, mean in means.items()} == widths
    assert all((mean >= 0).all() and mean.max() > 0 for mean in means.values())


def test_the_importance_matrix_is_used_and_helps(full: Path, imatrix: Path, tmp_path: Path) -> None:
    plain = edge.quantize(full, tmp_path / "plain.gguf", "Q4_0")
    aware = edge.quantize(full, tmp_path / "aware.gguf", "Q4_0", imatrix=imatrix, log=tmp_path / "log")
    assert "have importance matrix data with 28 entries" in (tmp_path / "log").read_text()
    before, after = ({t.name: t for t in open_gguf(p).tensors} for p in (plain, aware))
    same = [name for name, t in before.items() if name.startswith("blk.") and len(t.shape) == 2]
    same = [name for name in same if before[name].tensor_type == after[name].tensor_type]
    assert len(same) >= 20
    assert all(before[name].data.tobytes() != after[name].data.tobytes() for name in same)
    lost, kept = edge.weight_error(full, plain, imatrix), edge.weight_error(full, aware, imatrix)
    assert sum(kept[name] for name in same) < sum(lost[name] for name in same)


def test_an_importance_matrix_of_another_model_is_refused(base: Path, imatrix: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match=r"did not use the importance matrix|quantizing .* failed"):
        edge.quantize(base, tmp_path / "x.gguf", "Q4_0", imatrix=imatrix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quant", ["Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL"])
def test_each_quantization_keeps_the_weights(full: Path, quant: str, tmp_path: Path) -> None:
    made = edge.quantize(full, tmp_path / "x.gguf", quant)
    assert made.stat().st_size < full.stat().st_size
    assert value(open_gguf(made), "tokenizer.chat_template") == TEMPLATE
    assert max(edge.weight_error(full, made).values()) < 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


def test_quantizer_errors_name_the_cause(full: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="no quantization 'Q3_X'") as wrong:
        edge.quantize(full, tmp_path / "x.gguf", "Q3_X")
    assert "Q4_0" in wrong.value.hint
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(full.read_bytes()[:9_000_000])
    with pytest.raises(EdgeError, match=r"quantizing torn\.gguf to Q4_0 failed"):
        edge.quantize(torn, tmp_path / "x.gguf", "Q4_0")
    assert [p.name for p in tmp_path.iterdir()] == ["torn.gguf"]


# -- runtime -----------------------------------------------------------------------------------------------------------


def test_a_server_that_cannot_start_says_why(full: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="there is no model at"), edge.LlamaServer(tmp_path / "none.gguf"):
        pass
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(EdgeError, match="is not a GGUF file"), edge.LlamaServer(tmp_path / "pointer.gguf"):
        pass
    (tmp_path / "torn.gguf").write_bytes(full.read_bytes()[:9_000_000])
    with pytest.raises(EdgeError, match="corrupted or incomplete"), edge.LlamaServer(tmp_path / "torn.gguf"):
        pass


def test_a_dead_server_is_told_from_a_slow_one(full: Path) -> None:
    with edge.LlamaServer(full, ctx_per_slot=256, threads=1) as server:
        server.check()
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(EdgeError, match=r"died .killed by SIGKILL"):
            for _ in range(100):  # its first thread is gone at once, the others a moment later
                server.check()
                time.sleep(0.1)
    with pytest.raises(EdgeError, match="not running"):
        _ = server.base_url


@pytest.mark.parametrize("started_from", ["main", "thread"])
def test_the_server_dies_with_its_parent_even_on_kill_9(full: Path, started_from: str) -> None:
    code = f"""
import sys, threading, time
from pathlib import Path
from workbench.edge import LlamaServer
server = LlamaServer(Path({str(full)!r}), ctx_per_slot=256, threads=1)
start = threading.Thread(target=server.__enter__)
{"start.start(); start.join()" if started_from == "thread" else "server.__enter__()"}
time.sleep(1.2)
server.check()
print(server.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], env=child.environment(), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not _gone(pid, timeout_s=0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _gone(pid, timeout_s=5)


def _gone(pid: int, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except FileNotFoundError:
            return True
        if state == "Z" or time.monotonic() > end:
            return state == "Z"
        time.sleep(0.05)


# -- expert ------------------------------------------------------------------------------------------------------------


def test_the_expert_folder_is_complete_and_its_grammar_holds(
    full: Path, server: edge.LlamaServer, tmp_path: Path
) -> None:
    from openai import OpenAI

    made = edge.write_expert(tmp_path / "expert", full, name="timer", schema=SCHEMA, rendering=WORDS, system=None)
    assert sorted(p.name for p in made.iterdir()) == ["Modelfile", "grammar.gbnf", "model.gguf", "schema.json"]
    assert (made / "model.gguf").samefile(full)
    assert json.loads((made / "schema.json").read_text()) == SCHEMA
    client = OpenAI(base_url=server.base_url, api_key="none")
    reply = client.chat.completions.create(
        model=server.alias,
        messages=[{"role": "user", "content": "tea for 5 minutes"}],
        max_tokens=64,
        temperature=0,
        extra_body={"grammar": (made / "grammar.gbnf").read_text()},
    )
    said = json.loads(reply.choices[0].message.content or "")
    assert list(said) == ["name", "minutes", "kind"]
    assert said["name"] == "set_timer" and said["kind"] in ("tea", "egg")


def test_the_grammar_is_plain_gbnf_on_one_line() -> None:
    gbnf = grammar(SCHEMA)
    assert "root ::=" in gbnf and "%llguidance" not in gbnf
    assert 'space ::= " "?\n' in gbnf


def test_the_modelfile_reproduces_the_chat_template() -> None:
    text = modelfile("timer", WORDS, "You set timers.")
    assert 'SYSTEM """You set timers."""\n' in text
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\n' in text
    assert go_template(WORDS) == (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    with pytest.raises(EdgeError, match='cannot hold """'):
        modelfile("timer", WORDS, 'say """so"""')


def test_what_a_template_says_of_its_own_accord_is_said_in_go_too() -> None:
    text = "{% if messages[0].role != 'system' %}<|im_start|>system\nHello<|im_end|>\n{% endif %}" + TEMPLATE
    default = Rendering(text, "<|im_end|>")
    assert go_template(default) == (
        "<|im_start|>system\nHello<|im_end|>\n<|im_start|>user\n{{ .Prompt }}<|im_end|>\n"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    assert end_of_turn(default) == "<|im_end|>\n"
    with pytest.raises(EdgeError, match="no place for a system message"):
        modelfile("timer", default, "You set timers.")


GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("words", "tail", "go"),
    [
        (Rendering(GEMMA, "<end_of_turn>", "<bos>", "<eos>"), "<end_of_turn>\n",
         "<bos><start_of_turn>user\n{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n{{ .Response }}<end_of_turn>\n"),
        (Rendering("{{ bos_token }}" + TEMPLATE, "<|im_end|>", "<s>"), "<|im_end|>\n",
         "<s>{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
         "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"),
        (Rendering(ZEPHYR, "</s>", "<s>", "</s>"), "</s>\n",
         "{{ if .System }}<|system|>\n{{ .System }}</s>\n{{ end }}"
         "<|user|>\n{{ .Prompt }}</s>\n<|assistant|>\n{{ .Response }}</s>\n"),
    ],
)  # fmt: skip
def test_templates_of_other_families(words: Rendering, tail: str, go: str) -> None:
    assert end_of_turn(words) == tail
    assert go_template(words) == go


def test_templates_that_cannot_be_shipped() -> None:
    with pytest.raises(StudentError, match="does not render"):
        end_of_turn(Rendering("{% for m in messages %}", ""))
    forgetful = "{% for m in messages %}{% if loop.last %}{{ m.role }}: {{ m.content }}<e>{% endif %}{% endfor %}"
    with pytest.raises(EdgeError, match="no plain form for Ollama"):
        go_template(Rendering(forgetful, "<e>"))
