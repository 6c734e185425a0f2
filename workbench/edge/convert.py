"""A folder of merged Hugging Face weights -> one 16-bit GGUF, through llama.cpp's own converter in a child process.

The tokenizer is the delicate half. llama.cpp knows a pre-tokenizer by name (`tokenizer.ggml.pre`), and its converter
finds that name by hashing what the tokenizer makes of one test string; a tokenizer that transformers rebuilt from a
GGUF may hash to nothing. So when the base model came from a GGUF, its `tokenizer.*` metadata is copied as it stands,
provided that its tokens are the folder's one for one; where the vocabulary was changed, the pre-tokenizer's name is.
A vocabulary that was trimmed (students/vocabulary.py) remembers what it made of that string before.

On top of that the file always says: exactly the chat template that was given; as `eos` the token with which that
template ends the assistant's turn; no BOS before the prompt; and a padding token that is not `eos`. The finished file
is read back and checked for all four before it gets its name.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from workbench.edge import child
from workbench.edge.converter import converter
from workbench.edge.gguf_file import check_gguf, open_gguf, value
from workbench.edge.template import end_of_turn
from workbench.errors import EdgeError
from workbench.students.rendering import Rendering


def to_gguf(
    model_dir: Path,
    out: Path,
    rendering: Rendering,
    base_gguf: Path | None = None,
    *,
    name: str | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Writes `out` and gives it back.

    `model_dir` holds safetensors, `config.json` and the tokenizer; weights keep their 16-bit type (bf16 stays bf16) and
    norms become F32. `rendering` is that of the training chats. `base_gguf` is the file the base model came from, if any.
    `name` is what the file calls itself (`general.name`), by default the name of the folder. `facts` are more metadata, by key.
    Raises `EdgeError` if the converter fails or if the file does not say what it must.
    """
    if not (model_dir / "config.json").is_file():
        raise EdgeError(f"{model_dir} holds no config.json", "merge the adapter into the base model first")
    if base_gguf is not None:
        check_gguf(base_gguf)
    tail = end_of_turn(rendering)
    tools = converter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".convert-") as work:
        made = Path(work) / "model.gguf"
        spec = {
            "model_dir": str(model_dir),
            "out": str(made),
            "chat_template": rendering.template,
            "turn_end": tail,
            "name": name or model_dir.name,
            "facts": dict(facts or {}),
            "base_gguf": None if base_gguf is None else str(base_gguf),
        }
        child.run(
            "workbench.edge.convert_child",
            [json.dumps(spec)],
            log=Path(work) / "log",
            what=f"converting {model_dir} to GGUF",
            hint="the folder must hold one whole merged model of an architecture that llama.cpp knows",
            env=child.environment(tools),
        )
        check_export(made, rendering)
        made.replace(out)
    return out


def check_export(path: Path, rendering: Rendering) -> None:
    """Reads the file back. `EdgeError` naming each thing in it that is not as a shipped expert needs it."""
    reader = open_gguf(path)
    tokens = value(reader, "tokenizer.ggml.tokens", [])
    eos = value(reader, "tokenizer.ggml.eos_token_id")
    pad = value(reader, "tokenizer.ggml.padding_token_id")
    rows = next((int(t.shape[-1]) for t in reader.tensors if t.name == "token_embd.weight"), 0)
    wrong: list[str] = []
    if value(reader, "tokenizer.chat_template") != rendering.template:
        wrong.append("its chat template is not the one given")
    if eos is None or not end_of_turn(rendering).lstrip().startswith(tokens[eos]):
        wrong.append(f"its eos token is {None if eos is None else tokens[eos]!r}, not the template's end of turn")
    if value(reader, "tokenizer.ggml.add_bos_token") is not False:
        wrong.append("it puts a BOS before the prompt")
    if pad == eos:
        wrong.append("its padding token is its eos token")
    if len(tokens) != rows:
        wrong.append(f"it has {len(tokens)} tokens but {rows} embedding rows")
    if wrong:
        raise EdgeError(f"the converted file is not fit to ship: {'; '.join(wrong)}", "look at the tokenizer's config")
