"""Pruning of blocks and neurons: what is measured, what stays bit for bit, what takes over."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from weights import HARD, SAID, changed, logits, old_ids, same_tensors

from workbench.errors import StudentError
from workbench.students.batches import Encoded, encode
from workbench.students.folders import read_config, read_tensors
from workbench.students.load import load_model, load_tokenizer
from workbench.students.prune import Importance, _taken_over, importance, pruned
from workbench.students.rendering import rendering_for
from workbench.students.settings import Pair
from workbench.students.vocabulary import trimmed


def rows_of(folder: Path) -> list[Encoded]:
    pairs = [Pair(prompt=said, completion=json.dumps({"said": said[:9]})) for said in SAID]
    return encode(load_tokenizer(folder), rendering_for(folder), pairs)


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
    for block in range(4):
        active_N_F = torch.cat(inside[block]).float()
        assert torch.allclose(
            found.grams_L_F_F[block], active_N_F.T @ active_N_F / len(active_N_F), rtol=2e-2, atol=1e-4
        )


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
    ids = rows_of(deep)[2].ids
    assert torch.allclose(logits(made, ids), logits(deep, ids), atol=1e-4)
    model: Any = load_model(made)
    assert model.model.layers[3].mlp.down_proj.weight.shape == (64, 96)


def test_the_outlets_that_stay_are_those_of_least_squares() -> None:
    torch.manual_seed(0)
    active_N_F, weight_H_F = torch.randn(500, 24, dtype=torch.double).relu(), torch.randn(8, 24, dtype=torch.double)
    active_N_F[:, 20:] += active_N_F[:, :4]  # some go together
    kept_K, down_H_F = _taken_over(weight_H_F, active_N_F.T @ active_N_F / 500, 23)
    wanted_N_H = active_N_F @ weight_H_F.T
    best = torch.linalg.lstsq(active_N_F[:, kept_K], wanted_N_H).solution
    torch.testing.assert_close(down_H_F[:, kept_K], best.T, rtol=0.02, atol=0.02)

    def error(gone: int) -> float:
        rest = [neuron for neuron in range(24) if neuron != gone]
        fitted = torch.linalg.lstsq(active_N_F[:, rest], wanted_N_H).solution
        return float((active_N_F[:, rest] @ fitted - wanted_N_H).square().sum())

    gone = (set(range(24)) - set(kept_K.tolist())).pop()
    assert gone == min(range(24), key=error), "of all neurons, the one that is missed least"


def test_what_a_neuron_did_that_goes_others_take_over(deep: Path, tmp_path: Path) -> None:
    """In each block 32 neurons say twice what others say, and 32 have no outlet: the other 64 could say it all."""

    def double(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            if ".gate_proj." in name or ".up_proj." in name:
                tensor[96:] = tensor[:32] * (2 if ".up_proj." in name else 1)

    base = changed(deep, tmp_path / "base", double)
    found = importance(base, rows_of(base), tokens=200)
    made = pruned(base, tmp_path / "made", blocks=4, neurons=64, found=found)
    cut = Importance(found.blocks_L, torch.eye(128).expand(4, 128, 128))  # none goes with another: each is just dropped
    dropped = pruned(base, tmp_path / "dropped", blocks=4, neurons=64, found=cut)
    ids = rows_of(base)[0].ids
    away, dropped_away = ((logits(each, ids) - logits(base, ids)).abs().max() for each in (made, dropped))
    assert away < 0.2 * dropped_away


def test_with_all_kept_the_weights_are_the_parents(deep: Path, tmp_path: Path) -> None:
    found = Importance(torch.rand(4), torch.eye(128).expand(4, 128, 128))
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
    assert torch.allclose(logits(child, ids), logits(base, theirs)[:, old_ids(child, base)], atol=1e-5)


def test_what_cannot_be_pruned_is_told(deep: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    found = Importance(torch.rand(4), torch.eye(128).expand(4, 128, 128))
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
        pruned(deep, tmp_path / "out", blocks=2, neurons=64, found=Importance(torch.rand(3), torch.rand(3, 128, 128)))
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
