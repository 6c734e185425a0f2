"""A transformers model in this process as a teacher: for models that have no GGUF, and where weights must be at hand."""

import asyncio
import time
from typing import Any

from workbench.errors import TeacherError
from workbench.types import Reply, Request, Usage


class TransformersTeacher:
    """A hub id or a local folder. One request at a time; no constrained decoding: the validators see to the form."""

    def __init__(self, source: str, *, licence: str) -> None:
        self.model = source
        self.licence = licence
        self._loaded: tuple[Any, Any] | None = None
        self._turn = asyncio.Lock()

    async def complete(self, request: Request) -> Reply:
        async with self._turn:
            return await asyncio.to_thread(self._generate, request)

    def _generate(self, request: Request) -> Reply:
        import torch

        start = time.monotonic()
        tokenizer, model = self._load()
        ids = tokenizer.apply_chat_template(
            [m.model_dump() for m in request.messages],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        torch.manual_seed(request.k)
        sampling: dict[str, Any] = {"do_sample": False}
        if request.temperature > 0:
            sampling = {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p}
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=request.max_tokens, **sampling)
        prompt_tokens = ids["input_ids"].shape[1]
        new = out[0, prompt_tokens:]
        text = tokenizer.decode(new, skip_special_tokens=True)
        if not text:
            raise TeacherError("the reply is empty", kind="bad_reply")
        return Reply(
            text=text,
            finish="length" if len(new) >= request.max_tokens else "stop",
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(new)),
            seconds=time.monotonic() - start,
        )

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from workbench.models import cache_dir
            from workbench.students.load import load_model, load_tokenizer, prepare_base

            folder = prepare_base(self.model, cache_dir() / "students")
            self._loaded = load_tokenizer(folder), load_model(folder)
            if self._loaded[0].chat_template is None:
                raise TeacherError(
                    f"{self.model} has no chat template", "take an instruct model", kind="refused", fatal=True
                )
        return self._loaded

    async def aclose(self) -> None:
        self._loaded = None
