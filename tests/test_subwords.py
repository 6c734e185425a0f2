"""Rare words in pieces: the ones that a vocabulary without them would write."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workbench.config import load_config
from workbench.errors import StudentError
from workbench.stages.train import try_student
from workbench.students.batches import encode
from workbench.students.load import load_tokenizer
from workbench.students.qlora import train
from workbench.students.rendering import rendering_for
from workbench.students.settings import Pair, TrainConfig
from workbench.students.subwords import SELDOM, encode_resplit, scarce
from workbench.students.vocabulary import COMMON, trimmed

OFTEN = [
    Pair(prompt=f"turn {on} the {what}", completion=f'[{{"name":"turn_{on}","arguments":{{"what":"{what}"}}}}]')
    for on in ("on", "off", "up") for what in ("lamp", "television", "dishwasher")
]  # fmt: skip
RARE = Pair(prompt="turn on the chandelier", completion='[{"name":"turn_on","arguments":{"what":"chandelier"}}]')
ALL = TrainConfig(resplit=1.0)


def texts(base: Path, rows: list[Pair]) -> list[str]:
    rendering = rendering_for(base)
    return [text for row in rows for text in (rendering.prompt(row.prompt), rendering.completion(row.completion))]


def specials_behind(base: Path, out: Path) -> Path:
    """As Qwen and Llama 3 come: the special tokens are not of the vocabulary, and their ids follow it."""
    shutil.copytree(base, out)
    spec = json.loads((out / "tokenizer.json").read_text("utf-8"))
    vocab = spec["model"]["vocab"]
    names = [token["content"] for token in spec["added_tokens"]]
    plain = sorted((token for token in vocab if token not in names), key=lambda token: int(vocab[token]))
    spec["model"]["vocab"] = {token: place for place, token in enumerate(plain)}
    for place, token in enumerate(spec["added_tokens"]):
        token["id"] = len(plain) + place
    (out / "tokenizer.json").write_text(json.dumps(spec))
    said = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    said.pop("added_tokens_decoder", None)
    (out / "tokenizer_config.json").write_text(json.dumps(said))
    return out


@pytest.mark.parametrize("kind", ["plain", "specials behind", "trimmed before"])
def test_a_rare_word_is_what_a_vocabulary_trimmed_to_the_other_rows_makes_of_it(
    kind: str, tiny: Path, tmp_path: Path
) -> None:
    rows = [*OFTEN, RARE]
    fewer = load_tokenizer(trimmed(tiny, tmp_path / "fewer", texts(tiny, OFTEN), common=COMMON))
    base = {
        "plain": lambda: tiny,
        "specials behind": lambda: specials_behind(tiny, tmp_path / "behind"),
        "trimmed before": lambda: trimmed(tiny, tmp_path / "trimmed", texts(tiny, rows), common=COMMON),
    }[kind]()
    tokenizer, rendering = load_tokenizer(base), rendering_for(base)
    plain, split = encode(tokenizer, rendering, rows), encode_resplit(tokenizer, rendering, rows, ALL)
    assert split[:-1] == plain[:-1], "what three rows hold stays"
    was, now = plain[-1], split[-1]
    wanted = [fewer.tokenize(rendering.prompt(RARE.prompt)), fewer.tokenize(rendering.completion(RARE.completion))]
    assert tokenizer.convert_ids_to_tokens(now.ids) == wanted[0] + wanted[1]
    assert now.prompt == len(wanted[0]) > was.prompt and len(now.ids) - now.prompt > len(was.ids) - was.prompt
    assert tokenizer.decode(now.ids) == tokenizer.decode(was.ids) and now.ids[-1] == was.ids[-1]


def test_rare_is_what_few_different_rows_hold(tiny: Path) -> None:
    tokenizer, rendering = load_tokenizer(tiny), rendering_for(tiny)
    other = [RARE.model_copy(update={"prompt": f"{word} {RARE.prompt}"}) for word in ("please", "now", "then")]
    for rows, whole in (([RARE] * 9, False), (other[:SELDOM], False), (other[: SELDOM + 1], True)):
        fewer = scarce(tokenizer, encode(tokenizer, rendering, [*OFTEN, *rows]))
        assert (fewer.tokenize(" chandelier") == tokenizer.tokenize(" chandelier")) is whole


def test_the_share_is_drawn_by_the_seed(tiny: Path) -> None:
    tokenizer, rendering = load_tokenizer(tiny), rendering_for(tiny)
    words = ["chandelier", "thermostat", "percolator", "harpsichord", "wheelbarrow", "kaleidoscope", "trampoline"]
    rows = [*OFTEN, *(Pair(prompt=f"turn on the {word}", completion="[]") for word in words)]
    plain = encode(tokenizer, rendering, rows)
    half = TrainConfig(resplit=0.5, seed=1)
    drawn = encode_resplit(tokenizer, rendering, rows, half)
    assert encode_resplit(tokenizer, rendering, rows, TrainConfig()) == plain
    assert encode_resplit(tokenizer, rendering, rows, half) == drawn
    assert encode_resplit(tokenizer, rendering, rows, half.model_copy(update={"seed": 2})) != drawn
    assert 0 < sum(one != other for one, other in zip(plain, drawn, strict=True)) < len(words)


def test_a_row_that_would_be_too_long_stays_whole(tiny: Path) -> None:
    tokenizer, rendering = load_tokenizer(tiny), rendering_for(tiny)
    was = encode(tokenizer, rendering, [*OFTEN, RARE])[-1]
    for longest, whole in ((len(was.ids), True), (2 * len(was.ids), False)):
        config = ALL.model_copy(update={"max_length": longest})
        assert (encode_resplit(tokenizer, rendering, [*OFTEN, RARE], config)[-1] == was) is whole


def test_a_training_reads_them_and_dev_rows_stay_whole(tiny: Path, tmp_path: Path) -> None:
    found = []
    for share in (None, 1.0):
        work, config = tmp_path / str(share), TrainConfig(r=4, max_steps=1, resplit=share)
        train(tiny, [RARE] * 4, [RARE], config, work, lambda _: None)
        found.append([json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()])
    (before, plain), (untrained, split) = (lines[:2] for lines in found)
    assert before["dev_loss"] == untrained["dev_loss"]
    assert split["tokens"] > plain["tokens"]


def test_a_tokenizer_of_another_kind_is_told(tiny: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    rows = encode(load_tokenizer(tiny), rendering_for(tiny), OFTEN)
    with pytest.raises(StudentError, match="not a byte-level BPE, so its words are not split") as told:
        scarce(PreTrainedTokenizerFast(tokenizer_object=words), rows)
    assert told.value.hint == "leave train.resplit out"


def test_it_is_told_before_a_teacher_is_paid(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "other")
    spec = json.loads((tmp_path / "other" / "tokenizer.json").read_text("utf-8"))
    spec["model"]["byte_fallback"] = True
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(spec))
    whole, split = (
        load_config(sets=(f"student.model={tmp_path / 'other'}", *sets)) for sets in ((), ("train.resplit=0.5",))
    )
    try_student(whole, tmp_path, ships=False)
    with pytest.raises(StudentError, match="not a byte-level BPE"):
        try_student(split, tmp_path, ships=False)
