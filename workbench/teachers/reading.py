"""Rows that a model on this machine is to read, as its tokens; and a GGUF that reads them in llama.cpp.

In torch `whitebox.TransformersTeacher` reads. Where the CPU does not multiply in bf16 that would be in fp32, at four times the
file in memory; llama.cpp reads the file as it is.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import TeacherError
from workbench.types import Message

if TYPE_CHECKING:
    from workbench.logits import Row
    from workbench.students.generate import Text

Asked = Sequence[tuple[str, tuple[Message, ...], str]]  # names, messages, answers


class Reading:
    """Chats as the tokens of the model in `folder`, by its own template; `narrow`: it was trained as a student is, and reads
    the last message as one does. Raises TeacherError, StudentError."""

    def __init__(self, folder: Path, model: str, *, narrow: bool = False) -> None:
        from workbench.students.load import load_tokenizer
        from workbench.students.rendering import rendering_for

        self.tokenizer = load_tokenizer(folder)
        if self.tokenizer.chat_template is None:
            raise TeacherError(f"{model} has no chat template", "take an instruct model", kind="refused", fatal=True)
        self.rendering = rendering_for(folder)
        self._narrow = narrow
        self._blocks: dict[tuple[Message, ...], tuple[int, ...]] = {}

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Up to where the answer begins."""
        if self._narrow:
            return self._ids(self.rendering.prompt(messages[-1].content))
        return self._chat(messages, prompt=True)

    def shared(self, messages: tuple[Message, ...], prompt: tuple[int, ...]) -> int:
        """How many of a prompt's first tokens others with its few-shot block begin with too; one at least is left to read."""
        from workbench.students.generate import common

        block = messages[:-1]
        if block not in self._blocks:  # with the head of their own turn, and some more; made once for all of them
            turn = Message(role="user", content="-")
            self._blocks[block] = self._chat((*block, turn), prompt=False) if block else ()
        return min(common(self._blocks[block], prompt), len(prompt) - 1)

    def texts(self, asked: Asked) -> "list[Text]":
        """Each with its answer and the end of that turn; their names are their places."""
        from workbench.students.generate import Text

        found = []
        for place, (_, messages, answer) in enumerate(asked):
            prompt, written = self.prompt(messages), self._ids(self.rendering.completion(answer))
            found.append(Text((*prompt, *written), len(written), place, self.shared(messages, prompt)))
        return found

    def _chat(self, messages: tuple[Message, ...], *, prompt: bool) -> tuple[int, ...]:
        try:
            text = self.tokenizer.apply_chat_template(
                [message.model_dump() for message in messages], add_generation_prompt=prompt, tokenize=False
            )
        except Exception as error:
            raise TeacherError(f"the model's chat template refuses: {error}", kind="refused", fatal=True) from error
        return self._ids(str(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])


class GgufReader:
    """A GGUF that says in llama.cpp what it thinks of rows. It is unpacked too, for its tokenizer."""

    def __init__(self, gguf: Path, *, model: str) -> None:
        self.model = model
        self._gguf = gguf

    def folder(self) -> Path:
        """Of its tokenizer."""
        from workbench import models
        from workbench.students.load import prepare_base

        return prepare_base(self._gguf, models.cache_dir() / "students")

    @property
    def vocabulary(self) -> int:
        from workbench.students.folders import read_config

        return int(read_config(self.folder())["vocab_size"])

    def score(self, asked: Asked, k: int) -> "Iterator[tuple[str, Row]]":
        """What it thinks of answers as if it had written them, in no order: of each token of an answer, its end-of-turn last,
        the `k` likeliest. Raises EdgeError."""
        from workbench.edge.scorer import Line, scored
        from workbench.logits import Row

        texts = Reading(self.folder(), self.model).texts(asked)
        lines = [Line(text.ids, text.written, text.shared) for text in texts]
        for told in scored(self._gguf, lines, k):
            text = texts[told.place]
            tokens_T = np.array(text.ids[-text.written :], dtype=np.int32)
            yield asked[told.place][0], Row(tokens_T, told.ids_C_K, told.logprobs_C_K)
