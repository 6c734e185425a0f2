"""Answers in batches that share a prefix are the answers that the model gives alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from workbench.errors import StudentError
from workbench.students import attention, generate
from workbench.students.generate import Generator, Job, common
from workbench.students.load import load_model, load_tokenizer
from workbench.teachers.whitebox import TransformersTeacher
from workbench.types import Message, Request

STOP = frozenset({2})
SHARED = "The capital of France is Paris, the capital of Spain is"
ENDS = (" Madrid. The capital of Italy is", " Madrid, and that of Austria", "?", " not Lisbon. A city in Peru is")


@pytest.fixture(autouse=True)
def attention_put_back(model: LlamaForCausalLM) -> Iterator[None]:
    before = model.config._attn_implementation
    yield
    model.set_attn_implementation(before)


@pytest.fixture(scope="module")
def model(smollm2_hf: Path) -> LlamaForCausalLM:
    loaded = load_model(smollm2_hf, dtype=torch.float32)  # in bf16 the order of sums decides between near words
    assert isinstance(loaded, LlamaForCausalLM)
    return loaded


@pytest.fixture(scope="module")
def prompts(smollm2_hf: Path) -> tuple[int, list[tuple[int, ...]]]:
    """How many tokens they share, and the prompts."""
    tokenizer = load_tokenizer(smollm2_hf)
    head = tokenizer(SHARED)["input_ids"]
    return len(head), [tuple(head + tokenizer(end)["input_ids"]) for end in ENDS]


@pytest.fixture(scope="module")
def alone(model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]]) -> list[list[int]]:
    """transformers' own greedy words, prompt by prompt."""
    found = []
    for ids in prompts[1]:
        out = model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False, eos_token_id=2, pad_token_id=0)
        found.append([token for token in out[0, len(ids) :].tolist() if token != 2])
    return found


@pytest.mark.parametrize("cut", [0, 3, None], ids=["nothing shared", "a part of it", "all of it"])
def test_a_batch_gives_what_each_prompt_gives_alone(
    model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]], alone: list[list[int]], cut: int | None
) -> None:
    generator = Generator(model, STOP)
    shared = prompts[0] if cut is None else cut
    first = generator.generate([Job(ids, 10, shared=shared) for ids in prompts[1]])
    again = generator.generate(
        [Job(ids, 10, shared=prompts[0]) for ids in reversed(prompts[1])]
    )  # grown from what was kept
    assert first == alone
    assert again == alone[::-1]


def test_rows_of_different_prefixes_stand_in_one_batch(
    model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]], alone: list[list[int]]
) -> None:
    shares = (prompts[0], 0, 3, prompts[0])
    jobs = [Job(ids, 10, shared=shared) for ids, shared in zip(prompts[1], shares, strict=True)]
    assert Generator(model, STOP).generate(jobs) == alone


def test_other_devices_than_a_cpu_find_the_same(
    model: LlamaForCausalLM,
    prompts: tuple[int, list[tuple[int, ...]]],
    alone: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_fused", attention._step_by_step)
    jobs = [Job(ids, 10, shared=shared) for ids, shared in zip(prompts[1], (prompts[0], 0, 3, 3), strict=True)]
    assert Generator(model, STOP).generate(jobs) == alone


def test_rows_end_at_their_own_length_and_the_others_go_on(
    model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]], alone: list[list[int]]
) -> None:
    lengths = (1, 10, 2, 3)
    jobs = [Job(ids, length, shared=prompts[0]) for ids, length in zip(prompts[1], lengths, strict=True)]
    found = Generator(model, STOP).generate(jobs)
    assert found == [words[:length] for words, length in zip(alone, lengths, strict=True)]


def test_drawing_is_repeatable_and_follows_the_seed(
    model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]]
) -> None:
    generator = Generator(model, STOP)
    warm = Job(prompts[1][0], 8, temperature=1.5, shared=prompts[0])
    one, same, other = (generator.generate([warm] * 3, seed) for seed in (1, 1, 2))
    narrow = generator.generate([warm._replace(top_p=0.01)], seed=1)
    greedy = generator.generate([warm._replace(temperature=0.0)], seed=1)
    assert one == same != other
    assert len({tuple(row) for row in one}) > 1
    assert narrow == greedy


def test_a_model_that_does_not_look_at_the_whole_text_is_refused() -> None:
    shape = MistralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4,
    )  # fmt: skip
    shape.layer_types = ["sliding_attention"]
    with pytest.raises(StudentError, match="mistral does not look at the whole text"):
        Generator(MistralForCausalLM(shape), STOP)


def test_common_counts_equal_tokens_from_the_start() -> None:
    assert [common(a, b) for a, b in (((1, 2, 3), (1, 2, 4)), ((1, 2), (1, 2, 3)), ((), (1,)), ((1,), (2,)))] == [
        2, 2, 0, 0,
    ]  # fmt: skip


def test_a_transformers_teacher_answers_many_at_once(smollm2: Path) -> None:
    """The real student as a teacher: the same few-shot block, other questions, all under way together."""
    block = (
        Message(role="system", content="Answer with one word."),
        Message(role="user", content="Opposite of hot?"),
        Message(role="assistant", content="cold"),
    )
    asked = [
        Request(messages=(*block, Message(role="user", content=f"Opposite of {word}?")), max_tokens=6)
        for word in ("big", "fast", "rich")
    ]
    teacher = TransformersTeacher(smollm2, model="smollm2 in torch", licence="Apache-2.0")

    async def ask(requests: list[Request]) -> list[str]:
        replies = await asyncio.gather(*(teacher.complete(request) for request in requests))
        assert all(0 < reply.usage.cached_tokens < reply.usage.prompt_tokens for reply in replies)
        assert all(reply.finish == ("length" if reply.usage.completion_tokens == 6 else "stop") for reply in replies)
        return [reply.text for reply in replies]

    async def both() -> tuple[list[str], list[str]]:
        try:
            return await ask(asked), await ask(asked[::-1])
        finally:
            await teacher.aclose()

    first, turned = asyncio.run(both())
    assert len(first) == 3 and all(first)
    assert first == turned[::-1]


def test_a_halted_run_returns_and_lines_are_refilled(
    model: LlamaForCausalLM, prompts: tuple[int, list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(model, STOP)
    generator.lines = 2
    monkeypatch.setattr(generate, "ADMIT", 1)
    shared, ids = prompts
    left = [Job(ids[turn % 4], 2 + turn % 3, name=turn, shared=shared) for turn in range(7)]
    given: list[int] = []
    asked: list[int] = []

    def take(count: int) -> list[Job]:
        asked.append(count)
        return [left.pop(0) for _ in range(min(count, len(left)))]

    def give(job: Job, tokens: list[int]) -> None:
        assert len(tokens) <= job.max_tokens
        given.append(job.name)
        generator.halted = len(given) == 5

    generator.run(take, give)
    assert len(given) == 5 and len(left) < 3, "five answered, then halted with some under way"
    assert max(asked) <= 2 and len(asked) > 3, "a line that is free is filled again"


def test_prompts_are_read_with_those_of_their_length() -> None:
    lengths = [40, 3, 41, 3, 4, 3, 90, 4, 3, 42, 3, 44, 45, 41]
    parts = generate._parts([Job(tuple(range(length)), 1, name=place) for place, length in enumerate(lengths)])
    assert sorted(job.name for part in parts for job in part) == list(range(len(lengths)))
    assert [[len(job.ids) for job in part] for part in parts] == [[3, 3, 3, 3, 3, 4, 4], [40, 41, 41, 42, 44, 45], [90]]
