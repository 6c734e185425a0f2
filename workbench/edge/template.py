"""The chat template outside of the runtime: what it writes after an answer, and its twin in Go for Ollama.

Rendered with jinja2 in a sandbox, set as transformers and llama.cpp set theirs (blocks trimmed).
"""

from workbench.errors import EdgeError

# Stand-ins that no chat template contains.
SYSTEM, PROMPT, RESPONSE = "WorkbenchSystemHere", "WorkbenchPromptHere", "WorkbenchResponseHere"
_GO = {SYSTEM: "{{ .System }}", PROMPT: "{{ .Prompt }}", RESPONSE: "{{ .Response }}"}


def render(chat_template: str, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    """The chat as text. `EdgeError` if the template is broken or refuses the chat."""
    import jinja2
    import jinja2.sandbox

    engine = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        return engine.from_string(chat_template).render(messages=messages, add_generation_prompt=add_generation_prompt)
    except jinja2.TemplateError as error:
        raise EdgeError(f"the chat template does not render: {error}", "try it with jinja2 on one chat") from error


def end_of_turn(chat_template: str) -> str:
    """What follows the assistant's answer, such as `<|im_end|>` and a newline. `EdgeError` if that is nothing."""
    chat = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
    _, found, tail = render(chat_template, chat, add_generation_prompt=False).rpartition(RESPONSE)
    if not found or not tail.strip():
        raise EdgeError(
            "the chat template does not end the assistant's turn with anything, so nothing would stop the expert",
            "write an end-of-turn token such as <|im_end|> after each message",
        )
    return tail


def go_template(chat_template: str) -> str:
    """The template in Go, as Ollama reads it: an optional system message, then user and assistant in turn.

    Raises `EdgeError` for a template whose messages depend on their neighbours, such as one with a default system text.
    """
    user, answer = {"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}
    system = {"role": "system", "content": SYSTEM}
    alone = render(chat_template, [user], add_generation_prompt=True)
    told = render(chat_template, [system, user], add_generation_prompt=True)
    whole = render(chat_template, [user, answer], add_generation_prompt=False)
    if not (told.endswith(alone) and told.count(SYSTEM) == 1 and whole.startswith(alone + RESPONSE)):
        raise EdgeError(
            "this chat template has no plain form for Ollama: its parts depend on one another",
            "use a template that writes each message alike, whatever its neighbours are",
        )
    head, rest = told.removesuffix(alone), whole.removeprefix(alone)
    return f"{{{{ if .System }}}}{_go(head)}{{{{ end }}}}{_go(alone)}{_go(rest)}"


def _go(text: str) -> str:
    text = text.replace("{{", '{{ "{{" }}')
    for placeholder, action in _GO.items():
        text = text.replace(placeholder, action)
    return text
