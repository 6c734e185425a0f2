"""How one user message and its answer become text: the chat template, read from the tokenizer's files, without torch.

The student learns this text token for token, and the same template is written into what ships. Models that know
ChatML's two tokens get a minimal ChatML: the default system message that many templates slip in costs prefill on each
request and teaches a narrow student nothing.

A student reads one user message: system messages, tools and more turns are nothing that it is trained on.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from workbench.errors import StudentError

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNTRIMMED = (
    "untrimmed"  # in tokenizer_config.json: ids that the vocabulary before trimming made of a text (vocabulary.py)
)
_MARK = "\u2402answer\u2403"  # stands for the answer while the end-of-turn is looked for


@dataclass(frozen=True)
class Rendering:
    """`template` is Jinja text, `end_of_turn` the token that closes an answer, `bos`/`eos` are what it may name."""

    template: str
    end_of_turn: str
    bos: str = ""
    eos: str = ""

    def prompt(self, text: str) -> str:
        """One user message, up to the point where the assistant starts to write. Raises StudentError."""
        return self.render([{"role": "user", "content": text}], generate=True)

    def completion(self, text: str) -> str:
        return text + self.end_of_turn

    def render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        """A chat as text; `generate`: up to where the assistant starts to write. Raises StudentError."""
        try:
            return _compiled(self.template).render(
                messages=messages, add_generation_prompt=generate, bos_token=self.bos, eos_token=self.eos
            )
        except jinja2.TemplateError as error:
            raise StudentError(
                f"the chat template does not render: {error}", "try it with jinja2 on one chat"
            ) from error


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    # The same switches as transformers' apply_chat_template, or the blanks would differ.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def rendering_for(folder: Path) -> Rendering:
    """The rendering of a Hugging Face folder. Raises StudentError: no tokenizer files, no template."""
    config, special = _tokenizer_files(folder)
    bos, eos = _text(config.get("bos_token")), _text(config.get("eos_token"))
    if {"<|im_start|>", "<|im_end|>"} <= special:
        return Rendering(CHATML, "<|im_end|>", bos, eos)
    template = _own_template(folder, config)
    if not template:
        raise StudentError(
            f"{folder.name} has no chat template and does not know <|im_start|>/<|im_end|>",
            "use an instruct model, or put a chat_template.jinja beside its tokenizer.json",
        )
    return Rendering(template, _end_of_turn(Rendering(template, eos, bos, eos), special | {eos}), bos, eos)


def _end_of_turn(draft: Rendering, special: set[str]) -> str:
    """The first special token that the template writes after an answer; the eos token if it writes none."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    _, _, tail = draft.render(turns, generate=False).partition(_MARK)
    found = sorted((tail.find(token), -len(token), token) for token in special if token and token in tail)
    end = found[0][2] if found else draft.eos
    if not end:
        raise StudentError("neither the chat template nor the tokenizer names a token that ends an answer")
    return end


def _tokenizer_files(folder: Path) -> tuple[dict[str, Any], set[str]]:
    """tokenizer_config.json, and the special tokens of tokenizer.json."""
    try:
        tokens = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise StudentError(
            f"cannot read the tokenizer of {folder}: {error}",
            "the folder needs tokenizer.json and tokenizer_config.json; AutoTokenizer.save_pretrained writes both",
        ) from error
    return config, {token["content"] for token in tokens if token.get("special")}


def _own_template(folder: Path, config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text("utf-8")
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several named templates; "default" is the plain one
        template = next((item["template"] for item in template if item.get("name") == "default"), "")
    return str(template)


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
