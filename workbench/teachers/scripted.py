"""A teacher that follows a script: the fake beside the real ones.

teacher = Scripted(lambda request: '[{"name": "open_app", "arguments": {"app": "maps"}}]')
"""

from collections.abc import Callable

from workbench.types import Reply, Request, Usage


class Scripted:
    """Answers with what `script` makes of the request; `history` keeps what was asked."""

    def __init__(self, script: Callable[[Request], str], model: str = "scripted", licence: str = "CC0-1.0") -> None:
        self.script = script
        self.model = model
        self.licence = licence
        self.keeper = None
        self.at_once = 0
        self.history: list[Request] = []

    async def prepare(self) -> None: ...

    async def complete(self, request: Request) -> Reply:
        self.history.append(request)
        text = self.script(request)
        prompt_tokens = sum(len(message.content.split()) for message in request.messages)
        return Reply(text=text, usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(text.split())))

    async def aclose(self) -> None:
        return None
