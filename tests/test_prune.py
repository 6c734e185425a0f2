"""Pruning: what is measured, what stays bit for bit, what text becomes under a trimmed vocabulary, here and in llama.cpp."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from workbench import edge, registry
from workbench.declaration import Task
from workbench.edge.gguf_file import open_gguf, value
from workbench.edge.parity import tokenize
from workbench.errors import StudentError
from workbench.students.batches import Encoded, encode
from workbench.students.folders import read_config, read_tensors
from workbench.students.load import load_model, load_tokenizer
from workbench.students.prune import Importance, importance, pruned
from workbench.students.rendering import rendering_for
from workbench.students.settings import Pair
from workbench.students.vocabulary import _kept, _renumbered, trimmed

SAID = ["turn on the lamp", "timer 25 minutes für den Tee", "call Zoë ☎ now"]
HARD = ["naïve 日本語 🦙", "  two  spaces\r\n\ttabs", "<|im_start|>user<|im_end|>", "snake_case x=1234567890 ½ e\u0301"]


def changed(base: Path, out: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    """A copy of a folder with other weights and settings."""
    shutil.copytree(base, out)
    tensors, config = load_file(base / "model.safetensors"), json.loads((base / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out


def rows_of(folder: Path) -> list[Encoded]:
    pairs = [Pair(prompt=said, completion=json.dumps({"said": said[:9]})) for said in SAID]
    return encode(load_tokenizer(folder), rendering_for(folder), pairs)


@torch.no_grad()
def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """(T, V) in fp32."""
    return torch.as_tensor(load_model(folder, dtype=torch.float32)(torch.tensor([ids])).logits[0])


def same_tensors(*folders: Path) -> bool:
    here, there = map(read_tensors, folders)
    return here.keys() == there.keys() and all(torch.equal(here[name], there[name]) for name in here)


@pytest.fixture(scope="module")
def deep(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks; the second does nothing, and in each 32 feed-forward neurons have no outlet."""

    def change(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        for name in list(tensors):
            if name.startswith("model.layers."):
                above = name.replace("layers.0", "layers.2").replace("layers.1", "layers.3")
                tensors[above] = tensors[name].flip(0).contiguous()
        for part in ("self_attn.o_proj", "mlp.down_proj"):
            tensors[f"model.layers.1.{part}.weight"].zero_()
        for block in range(4):
            tensors[f"model.layers.{block}.mlp.down_proj.weight"][:, block * 3 : block * 3 + 64 : 2] = 0
        config["num_hidden_layers"] = 4

    return changed(tiny, tmp_path_factory.mktemp("deep") / "deep", change)


# -- blocks and neurons ------------------------------------------------------------------------------------------------


def test_importance_is_that_of_its_formulas(deep: Path) -> None:
    rows = rows_of(deep)
    found = importance(deep, rows, tokens=30)
    model: Any = load_model(deep)
    inside: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: [], 3: []}
    for block, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args, at=block: inside[at].append(args[0][0]))
    cosines = []
    for row in rows:  # one at a time, nothing padded
        with torch.no_grad():
            states = model.model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[:4]
        cosines.append(
            torch.stack([torch.cosine_similarity(a[0].float(), b[0].float(), -1) for a, b in pairwise(states)])
        )
    expected_3 = 1 - torch.cat(cosines, 1).mean(1)  # the last state of all comes after the norm
    assert torch.allclose(found.blocks_L[:3], expected_3, atol=2e-3)
    for block, layer in enumerate(model.model.layers):
        used_F = torch.cat(inside[block]).abs().float().mean(0) * layer.mlp.down_proj.weight.float().norm(dim=0)
        assert torch.allclose(found.neurons_L_F[block], used_F, rtol=2e-2, atol=1e-4)


def test_a_block_that_does_nothing_goes_first_and_is_not_missed(deep: Path, tmp_path: Path) -> None:
    found = importance(deep, rows_of(deep), tokens=200)
    assert found.blocks_L.argmin() == 1 and found.blocks_L[1] < 1e-6
    made = pruned(deep, tmp_path / "three", blocks=3, neurons=128, found=found)
    before, after = read_tensors(deep), read_tensors(made)
    for place, block in enumerate((0, 2, 3)):
        name = "model.layers.{}.self_attn.q_proj.weight"
        assert torch.equal(after[name.format(place)], before[name.format(block)])
    ids = rows_of(deep)[1].ids
    assert torch.equal(logits(made, ids), logits(deep, ids))
    assert read_config(made)["num_hidden_layers"] == 3
    assert load_tokenizer(made)(HARD).input_ids == load_tokenizer(deep)(HARD).input_ids


def test_neurons_without_an_outlet_go_first_and_are_not_missed(deep: Path, tmp_path: Path) -> None:
    found = importance(deep, rows_of(deep), tokens=200)
    made = pruned(deep, tmp_path / "narrow", blocks=4, neurons=96, found=found)
    after = read_tensors(made)
    for block in (0, 2, 3):
        kept = [n for n in range(128) if not (block * 3 <= n < block * 3 + 64 and (n - block * 3) % 2 == 0)]
        for part in ("gate", "up"):
            name = f"model.layers.{block}.mlp.{part}_proj.weight"
            assert torch.equal(after[name], read_tensors(deep)[name][kept])
    assert (found.neurons_L_F[1] == 0).all()
    ids = rows_of(deep)[2].ids
    assert torch.allclose(logits(made, ids), logits(deep, ids), atol=1e-4)
    model: Any = load_model(made)
    assert model.model.layers[3].mlp.down_proj.weight.shape == (64, 96)


def test_with_all_kept_the_weights_are_the_parents(deep: Path, tmp_path: Path) -> None:
    found = Importance(torch.rand(4), torch.rand(4, 128))
    made = pruned(deep, tmp_path / "same", blocks=4, neurons=128, found=found)
    assert same_tensors(made, deep) and read_config(made) == read_config(deep)
    again = pruned(deep, tmp_path / "same", blocks=2, neurons=32, found=found)  # a folder there is replaced
    assert load_model(again).config.num_hidden_layers == 2
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def qwen2(tiny: Path, out: Path) -> Path:
    """Three blocks of random Qwen2: biases in attention, a head of its own, a setting for each block; weights in two files."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(1)
    tokenizer = load_tokenizer(tiny)
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer) + 10, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
            pad_token_id=None,
        )
    ).bfloat16().save_pretrained(out, max_shard_size="4MB")  # fmt: skip
    tokenizer.save_pretrained(out)
    return out


def test_another_family_in_several_files(tiny: Path, tmp_path: Path) -> None:
    base = qwen2(tiny, tmp_path / "base")
    assert len(list(base.glob("*.safetensors"))) > 1
    found = importance(base, rows_of(base), tokens=100)
    model: Any = load_model(pruned(base, tmp_path / "small", blocks=2, neurons=32, found=found))
    assert [path.name for path in (tmp_path / "small").glob("*.safetensors*")] == ["model.safetensors"]
    assert model.config.layer_types == ["full_attention"] * 2
    kept = sorted(found.blocks_L.argsort(descending=True)[:2].tolist())
    bias = read_tensors(base)[f"model.layers.{kept[1]}.self_attn.q_proj.bias"]
    assert torch.equal(model.model.layers[1].self_attn.q_proj.bias, bias)
    child = trimmed(base, tmp_path / "few", SAID)
    ids, theirs = load_tokenizer(child)(SAID[1]).input_ids, load_tokenizer(base)(SAID[1]).input_ids
    assert torch.allclose(logits(child, ids), logits(base, theirs)[:, _old_ids(child, base)], atol=1e-5)


def test_what_cannot_be_pruned_is_told(deep: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    found = Importance(torch.rand(4), torch.rand(4, 128))
    for blocks, neurons, said in [
        (0, 128, "0 blocks of 4"),
        (5, 128, "5 blocks"),
        (4, 100, "100 feed"),
        (4, 160, "160"),
    ]:
        with pytest.raises(StudentError, match=said) as wrong:
            pruned(deep, tmp_path / "out", blocks=blocks, neurons=neurons, found=found)
        assert wrong.value.hint
    with pytest.raises(StudentError, match=r"measured on \(3, 128\)"):
        pruned(deep, tmp_path / "out", blocks=2, neurons=64, found=Importance(torch.rand(3), torch.rand(3, 128)))
    with pytest.raises(StudentError, match="no rows"):
        importance(deep, [], tokens=100)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2)).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(StudentError, match=r"gpt2 .gpt2. cannot be pruned") as wrong:
        pruned(tmp_path / "gpt2", tmp_path / "out", blocks=1, neurons=32, found=found)
    assert "Qwen2" in wrong.value.hint
    packed = changed(deep, tmp_path / "packed", lambda _, config: config.update(quantization_config={"bits": 4}))
    with pytest.raises(StudentError, match="are quantized"):
        importance(packed, rows_of(deep), tokens=100)
    assert not (tmp_path / "out").exists()


# -- the vocabulary ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trimmed(tiny, tmp_path_factory.mktemp("few") / "few", SAID)


def _old_ids(child: Path, parent: Path) -> list[int]:
    """The parent's id of each token of a trimmed vocabulary."""
    theirs = load_tokenizer(parent).get_vocab()
    return [theirs[token] for token, _ in sorted(load_tokenizer(child).get_vocab().items(), key=lambda item: item[1])]


def test_text_in_scope_is_the_same_tokens_and_the_same_logits(tiny: Path, few: Path) -> None:
    ours, theirs, old_V = load_tokenizer(few), load_tokenizer(tiny), _old_ids(few, tiny)
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
    kept = _kept(spec, seen, 0, rows=1)
    child = Tokenizer.from_str(json.dumps(_renumbered(spec, {old: new for new, old in enumerate(kept)})))
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
