"""A trimmed vocabulary: what text becomes under it, here and in llama.cpp."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from weights import HARD, SAID, changed, logits, old_ids, same_tensors

from workbench import edge, registry
from workbench.declaration import Task
from workbench.edge.gguf_file import open_gguf, value
from workbench.edge.parity import tokenize
from workbench.errors import StudentError
from workbench.students.folders import read_config, read_tensors
from workbench.students.load import load_model, load_tokenizer
from workbench.students.rendering import rendering_for
from workbench.students.vocabulary import _renumbered, kept, trimmed


@pytest.fixture(scope="module")
def few(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trimmed(tiny, tmp_path_factory.mktemp("few") / "few", SAID)


def test_text_in_scope_is_the_same_tokens_and_the_same_logits(tiny: Path, few: Path) -> None:
    ours, theirs, old_V = load_tokenizer(few), load_tokenizer(tiny), old_ids(few, tiny)
    assert len(ours) == read_config(few)["vocab_size"] < 400 and len(ours) % 32 == 0
    assert old_V == sorted(old_V) and len(set(old_V)) == len(ours)
    before, after = read_tensors(tiny), read_tensors(few)
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"][old_V])
    for text in SAID:
        ids, old = ours(text).input_ids, theirs(text).input_ids
        assert [old_V[token] for token in ids] == old
        assert ours.tokenize(text) == theirs.tokenize(text)
        with torch.no_grad():
            states: list[Any] = [
                load_model(base).base_model(torch.tensor([row])) for base, row in ((few, ids), (tiny, old))
            ]
        assert torch.equal(states[0].last_hidden_state, states[1].last_hidden_state)  # in bf16
        assert torch.allclose(logits(few, ids), logits(tiny, old)[:, old_V], atol=1e-5)


def test_text_not_in_scope_falls_apart_and_comes_back(tiny: Path, few: Path) -> None:
    ours, theirs = load_tokenizer(few), load_tokenizer(tiny)
    for text in HARD:
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    assert len(ours(HARD[0]).input_ids) > len(theirs(HARD[0]).input_ids)

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=30))
    def comes_back(text: str) -> None:
        ids = theirs(text).input_ids
        assert ours.decode(ours(text).input_ids) == theirs.decode(ids)

    comes_back()


def test_any_words_of_the_scope_in_any_order_are_the_same_tokens(tiny: Path, few: Path) -> None:
    ours, theirs = load_tokenizer(few), load_tokenizer(tiny)
    cut: Any = theirs.backend_tokenizer.pre_tokenizer
    words = sorted({text[at:end] for text in SAID for _, (at, end) in cut.pre_tokenize_str(text)})
    assert {" lamp", "turn", " ☎", "2"} <= set(words)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from([*words, "<|im_start|>", "<|im_end|>", "<|im_end|>"]), max_size=8))
    def same(drawn: list[str]) -> None:
        text = "".join(drawn)
        for part in text.replace("<|im_start|>", "<|im_end|>").split("<|im_end|>"):  # "call" + "now" is another word
            if not {part[at:end] for _, (at, end) in cut.pre_tokenize_str(part)} <= set(words):
                return
        assert ours.tokenize(text) == theirs.tokenize(text)

    same()


@st.composite
def byte_pairs(draw: st.DrawFn) -> tuple[Tokenizer, list[str]]:
    """A BPE over a, b, c whose merges overlap as badly as chance has it, in any order that can be, and some words."""
    tokens, merges = ["a", "b", "c"], list[tuple[str, str]]()
    for _ in range(draw(st.integers(1, 12))):
        pair = draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        if pair not in merges:
            merges.append(pair)  # two pairs may make the same token, as in Llama 3
            if "".join(pair) not in tokens:
                tokens.append("".join(pair))
    merges = draw(st.permutations(merges))
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made, draw(st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=4))


@settings(max_examples=300, deadline=None)
@given(byte_pairs())
def test_merges_that_stay_work_as_before(drawn: tuple[Tokenizer, list[str]]) -> None:
    parent, words = drawn
    spec = json.loads(parent.to_str())
    seen = {token for word in words for token in parent.encode(word).ids}
    stay = kept(spec, seen, 0, rows=1)
    child = Tokenizer.from_str(json.dumps(_renumbered(spec, {old: new for new, old in enumerate(stay)})))
    for word in words:
        assert child.encode(word).tokens == parent.encode(word).tokens
    ranks = [tuple(pair) for pair in spec["model"]["merges"]]
    places = [ranks.index(tuple(pair)) for pair in json.loads(child.to_str())["model"]["merges"]]
    assert places == sorted(places)


def test_ids_are_renumbered_wherever_they_are_named(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    spec = json.loads((base / "tokenizer.json").read_text())
    vocab = spec["model"]["vocab"]
    late = max(vocab, key=vocab.__getitem__)  # a token of the far end becomes a special one
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": vocab[late], "content": late})
    begin = {"SpecialToken": {"id": late, "type_id": 0}}
    spec["post_processor"]["single"].insert(0, begin)
    spec["post_processor"]["pair"].insert(0, begin)
    spec["post_processor"]["special_tokens"] = {late: {"id": late, "ids": [vocab[late]], "tokens": [late]}}
    (base / "tokenizer.json").write_text(json.dumps(spec))
    said = json.loads((base / "tokenizer_config.json").read_text()) | {"bos_token": late}
    (base / "tokenizer_config.json").write_text(json.dumps(said))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"bos_token_id": vocab[late], "pad_token_id": -1}))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, vocab[late]], "top_k": 49151}))
    ours, theirs = load_tokenizer(made := trimmed(base, tmp_path / "made", SAID)), load_tokenizer(base)
    place = ours.convert_tokens_to_ids(late)
    assert theirs(SAID[0]).input_ids[0] == vocab[late] and place < len(ours) < vocab[late]
    assert ours(SAID[0]).input_ids[0] == place
    assert [ours.convert_tokens_to_ids(t) for t in theirs.convert_ids_to_tokens(theirs(SAID[0]).input_ids)] == ours(
        SAID[0]
    ).input_ids
    assert (read_config(made)["bos_token_id"], read_config(made)["pad_token_id"]) == (place, None)
    generation = json.loads((made / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [ours.convert_tokens_to_ids("<|im_end|>"), place], "top_k": 49151}
    assert rendering_for(made) == rendering_for(base)


def test_common_merges_stay_for_text_nobody_saw(tiny: Path, few: Path, tmp_path: Path) -> None:
    more = load_tokenizer(trimmed(tiny, tmp_path / "more", SAID, common=4000))
    text = " this is one of the things that people said"
    assert more.tokenize(text) == load_tokenizer(tiny).tokenize(text) != load_tokenizer(few).tokenize(text)
    assert 4000 < len(more) < 4600
    all_of_it = trimmed(tiny, tmp_path / "all", SAID, common=10**6)
    assert same_tensors(all_of_it, tiny)


def test_what_cannot_be_trimmed_is_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="no texts"):
        trimmed(tiny, tmp_path / "out", [])
    spec = json.loads((tiny / "tokenizer.json").read_text())
    for name, model in {
        "words": {"type": "WordLevel", "vocab": spec["model"]["vocab"], "unk_token": "<|endoftext|>"},
        "pieces": spec["model"] | {"byte_fallback": True},
    }.items():
        base = tmp_path / name
        shutil.copytree(tiny, base)
        (base / "tokenizer.json").write_text(json.dumps(spec | {"model": model}))
        with pytest.raises(
            StudentError, match=f"{name} cannot be trimmed: its tokenizer is not a byte-level BPE"
        ) as wrong:
            trimmed(base, tmp_path / "out", SAID)
        assert "Qwen" in wrong.value.hint

    def rename(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        tensors["transformer.wte.weight"] = tensors.pop("model.embed_tokens.weight")

    def cut(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:300].clone()

    with pytest.raises(StudentError, match=r"has no .model\.embed_tokens"):
        trimmed(changed(tiny, tmp_path / "other", rename), tmp_path / "out", SAID)
    with pytest.raises(StudentError, match="has no row in its embedding"):
        trimmed(changed(tiny, tmp_path / "cut", cut), tmp_path / "out", SAID)
    assert not (tmp_path / "out").exists()


# -- and llama.cpp -----------------------------------------------------------------------------------------------------


def texts_of(task: Task, folder: Path) -> list[str]:
    """Prompts and completions of the seeds, each alone."""
    words = rendering_for(folder)
    prompts = [words.prompt(task.student_prompt(row.input)) for row in task.examples("seed")]
    return prompts + [words.completion(task.output.dump(row.target)) for row in task.examples("seed")]


def test_a_trimmed_student_runs_in_llama_cpp_on_the_same_ids(smollm2_hf: Path, smollm2: Path, tmp_path: Path) -> None:
    texts = texts_of(registry.load("phone_actions"), smollm2_hf)
    small = trimmed(smollm2_hf, tmp_path / "small", texts)
    ours, theirs = load_tokenizer(small), load_tokenizer(smollm2_hf)
    assert len(ours) < 1600
    assert [ours.tokenize(text) for text in texts] == [theirs.tokenize(text) for text in texts]
    tokenizer: Any = ours
    tokenizer.save_pretrained(small)  # as merge does: what the converter needs is still told
    made = edge.to_gguf(small, tmp_path / "small.gguf", rendering_for(small))
    reader = open_gguf(made)
    assert value(reader, "tokenizer.ggml.pre") == value(open_gguf(smollm2), "tokenizer.ggml.pre") == "smollm"
    saved = (len(theirs) - len(ours)) * read_config(small)["hidden_size"] * 2
    whole = sum(math.prod(tensor.shape) * 2 for tensor in read_tensors(smollm2_hf).values())
    assert made.stat().st_size == pytest.approx(whole - saved, rel=0.005)
    with edge.LlamaServer(made, ctx_per_slot=256, threads=1) as server:
        for text in [*texts, *HARD, "completely unrelated Wörter"]:
            assert tokenize(server.base_url, text) == ours(text, add_special_tokens=False).input_ids, text


def test_with_the_gguf_of_the_base_it_converts_too(few: Path, smollm2: Path, tmp_path: Path) -> None:
    reader = open_gguf(edge.to_gguf(few, tmp_path / "few.gguf", rendering_for(few), smollm2))
    spec = json.loads((few / "tokenizer.json").read_text())["model"]
    assert value(reader, "tokenizer.ggml.pre") == "smollm"
    assert value(reader, "tokenizer.ggml.tokens") == list(spec["vocab"])
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in spec["merges"]]
