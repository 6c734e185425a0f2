"""The chat template outside of the runtime: what it writes after an answer, and its twin in Go for Ollama."""

from workbench.errors import EdgeError, StudentError
from workbench.students.rendering import Rendering

# Stand-ins that no chat template contains.
SYSTEM, PROMPT, RESPONSE = "WorkbenchSystemHere", "WorkbenchPromptHere", "WorkbenchResponseHere"
_GO = {SYSTEM: "{{ .System }}", PROMPT: "{{ .Prompt }}", RESPONSE: "{{ .Response }}"}


def end_of_turn(rendering: Rendering) -> str:
    """What follows the assistant's answer, such as `<|im_end|>` and a newline. `EdgeError` if that is nothing."""
    chat = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
    _, found, tail = rendering.render(chat, generate=False).rpartition(RESPONSE)
    if not found or not tail.strip():
        raise EdgeError(
            "the chat template does not end the assistant's turn with anything, so nothing would stop the expert",
            "write an end-of-turn token such as <|im_end|> after each message",
        )
    return tail


def go_template(rendering: Rendering) -> str:
    """The template in Go, as Ollama reads it: user and assistant in turn, and before them a system message where the template
    writes one as it writes any other; what it says of its own accord is said here too.

    Raises `EdgeError` for a template that writes a user's message otherwise where an answer follows it.
    """
    user, answer = {"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}
    alone = rendering.render([user], generate=True)
    whole = rendering.render([user, answer], generate=False)
    if not whole.startswith(alone + RESPONSE):
        raise EdgeError(
            "this chat template has no plain form for Ollama: its parts depend on one another",
            "use a template that writes each message alike, whatever its neighbours are",
        )
    begun = rendering.bos if alone.startswith(rendering.bos) else ""
    return _go(begun) + _system(rendering, alone) + _go(alone.removeprefix(begun)) + _go(whole.removeprefix(alone))


def _system(rendering: Rendering, alone: str) -> str:
    try:
        told = rendering.render(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}], generate=True
        )
    except StudentError:  # the template refuses it
        return ""
    told, alone = told.removeprefix(rendering.bos), alone.removeprefix(rendering.bos)
    if not told.endswith(alone) or told.count(SYSTEM) != 1:
        return ""
    return f"{{{{ if .System }}}}{_go(told.removesuffix(alone))}{{{{ end }}}}"


def _go(text: str) -> str:
    text = text.replace("{{", '{{ "{{" }}')
    for placeholder, action in _GO.items():
        text = text.replace(placeholder, action)
    return text
