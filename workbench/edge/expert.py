"""The expert's folder: what an engineer copies to the device.

    model.gguf     the quantized file, with its chat template inside
    schema.json    the JSON Schema of the answers
    grammar.gbnf   the same as a grammar: llama-cli --grammar-file, or `grammar` in a request to llama-server
    Modelfile      for `ollama create NAME -f Modelfile`

The grammar comes from llama.cpp's own converter in cyllama. xllamacpp's does not serve here: it is built with
llguidance and answers with a `%llguidance` document, which a stock llama.cpp does not read.
"""

import json
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from workbench.edge.gguf_file import check_gguf
from workbench.edge.template import go_template
from workbench.errors import EdgeError
from workbench.students.rendering import Rendering


def write_expert(
    folder: Path, gguf: Path, *, name: str, schema: dict[str, Any], rendering: Rendering, system: str | None
) -> Path:
    """Writes the four files into `folder` (each by rename; others in it are left alone) and gives the folder back.

    `rendering` is that of the training chats, `system` their system message.
    Raises `EdgeError` if the schema has no grammar or the template no Go form.
    """
    check_gguf(gguf)
    texts = {
        "schema.json": json.dumps(schema, ensure_ascii=False, indent=2) + "\n",
        "grammar.gbnf": grammar(schema),
        "Modelfile": modelfile(name, rendering, system),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".expert-") as work:
        for file, text in texts.items():
            (Path(work) / file).write_text(text, encoding="utf-8")
        try:
            (Path(work) / "model.gguf").hardlink_to(gguf.resolve())
        except OSError:  # another filesystem, or one without hard links
            shutil.copyfile(gguf, Path(work) / "model.gguf")
        for file in ("model.gguf", *texts):
            (Path(work) / file).replace(folder / file)
    return folder


def grammar(schema: dict[str, Any]) -> str:
    """The schema as GBNF; objects keep the schema's order of properties. `EdgeError` if llama.cpp cannot do it.

    Narrower than llama.cpp's in one thing: JSON stays on one line, with at most one space between its signs. A small
    model that may write up to 22 white characters at each sign sometimes does.
    """
    llama_cpp = import_module("cyllama.llama.llama_cpp")
    try:
        gbnf: str = llama_cpp.json_schema_to_grammar(json.dumps(schema))
    except (ValueError, RuntimeError) as error:
        raise EdgeError(
            f"llama.cpp cannot turn this schema into a grammar: {error}",
            "leave out what JSON Schema allows beyond types, enums, lengths, ranges and simple patterns",
        ) from error
    lines = ['space ::= " "?' if line.startswith("space ::=") else line for line in gbnf.splitlines()]
    return "\n".join(lines) + "\n"


def modelfile(name: str, rendering: Rendering, system: str | None) -> str:
    """Ollama's Modelfile. `EdgeError` if a text holds triple quotes, which that format cannot escape, or if the template has no
    place for the system message."""
    template = go_template(rendering)
    if system and ".System" not in template:
        raise EdgeError("the chat template has no place for a system message", "leave it out of the training chats")
    parts = [
        f"# ollama create {name} -f Modelfile",
        "FROM ./model.gguf",
        f'TEMPLATE """{template}"""',
        *([f'SYSTEM """{system}"""'] if system else []),
        f"PARAMETER stop {json.dumps(rendering.end_of_turn, ensure_ascii=False)}",
        "PARAMETER temperature 0",
    ]
    if any(part.count('"""') not in (0, 2) for part in parts):
        raise EdgeError('a Modelfile cannot hold """ inside a text', "reword the system message or the chat template")
    return "\n".join(parts) + "\n"
