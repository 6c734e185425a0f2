"""Rows read by llama.cpp: against torch on the same weights, shared beginnings, and what goes wrong."""

from pathlib import Path

import numpy as np
import pytest

from workbench.edge import llama_api
from workbench.edge.scorer import OUTPUTS, SEQUENCES, TOKENS, Line, _parts, scored
from workbench.errors import EdgeError
from workbench.students.taught import end_of_turn
from workbench.teachers.reading import GgufReader
from workbench.teachers.whitebox import TransformersTeacher
from workbench.types import Message

BLOCK = tuple(
    Message(role=role, content=content)
    for role, content in (
        ("system", "Name the capital of the country, and nothing else."),
        ("user", "Portugal"),
        ("assistant", "Lisbon"),
    )
)
OTHER = (Message(role="system", content="Translate the word into French."),)
ANSWERS = [
    ("France", "Paris"),
    ("Spain", "Madrid"),
    ("Italy", "Rome, the eternal city"),
    ("Japan", "Tokyo"),
    ("Peru", "Lima"),
]
ASKED = [
    (f"{country} {number}", (*block, Message(role="user", content=country)), answer)
    for number, block in enumerate((BLOCK, OTHER, ()))
    for country, answer in ANSWERS
]


def test_llama_cpp_thinks_of_rows_what_torch_thinks_of_the_same_weights(smollm2: Path) -> None:
    """Up to the rounding of llama.cpp's products; few-shot blocks are read once, and rows of a block together."""
    reader = GgufReader(smollm2, model="smollm2")
    torch_too = TransformersTeacher(smollm2, model="smollm2 in torch", licence="Apache-2.0")
    found, wanted = dict(reader.score(ASKED, 8)), dict(torch_too.score(ASKED, 8))
    assert found.keys() == wanted.keys() == {name for name, _, _ in ASKED}
    assert reader.vocabulary == torch_too.vocabulary and reader.folder() == torch_too.folder()
    apart, alike, places = [], 0, 0
    for name, row in found.items():
        other = wanted[name]
        assert row.tokens_T.tolist() == other.tokens_T.tolist() and row.tokens_T[-1] == end_of_turn(reader.folder())
        assert row.ids_T_K.shape == row.logprobs_T_K.shape == (len(row.tokens_T), 8)
        assert (np.diff(row.logprobs_T_K) <= 0).all() and (np.exp(row.logprobs_T_K).sum(1) <= 1 + 1e-5).all()
        for mine, theirs in zip(
            [dict(zip(*pair, strict=True)) for pair in zip(row.ids_T_K.tolist(), row.logprobs_T_K, strict=True)],
            [dict(zip(*pair, strict=True)) for pair in zip(other.ids_T_K.tolist(), other.logprobs_T_K, strict=True)],
            strict=True,
        ):
            places += 1
            alike += next(iter(mine)) == next(iter(theirs))
            apart += [np.exp(mine[token]) - np.exp(theirs[token]) for token in mine.keys() & theirs.keys()]
    assert alike >= 0.9 * places, f"the likeliest token is the same at {alike} of {places}"
    assert np.abs(apart).max() < 0.1 and np.abs(apart).mean() < 0.01


def test_what_lines_share_is_read_as_if_each_were_alone(smollm2: Path) -> None:
    from workbench.students.load import load_tokenizer

    tokenizer = load_tokenizer(GgufReader(smollm2, model="").folder())
    head = tuple(tokenizer("The capital of France is Paris, and that of Spain")["input_ids"])
    ends = [
        tuple(tokenizer(text)["input_ids"]) for text in (" is Madrid.", ", by the way, is called Madrid", " was once")
    ]
    together = [Line((*head, *end), 2, shared) for end in ends for shared in (len(head) - 1, 4)]
    alone = [line._replace(shared=0) for line in together]
    found, wanted = ({each.place: each for each in scored(smollm2, lines, 5)} for lines in (together, alone))
    assert sorted(found) == sorted(wanted) == list(range(6))
    for place, told in found.items():
        np.testing.assert_allclose(np.exp(told.logprobs_C_K), np.exp(wanted[place].logprobs_C_K), atol=0.05)
    long = [Line((*head * (TOKENS // len(head) + 2), *ends[0]), 1)]
    (told,) = scored(smollm2, long, 3, threads=1)
    assert told.logprobs_C_K.shape == (1, 3), "one that is longer than a pass"


def test_a_pass_holds_what_it_has_room_for() -> None:
    lines = [Line([1] * 9 + [place], 2, 4) for place in range(150)] + [
        Line([2] * 9, 1, 4),
        Line([3] * (TOKENS + 1), OUTPUTS + 1),
    ]
    parts = list(_parts(lines, range(len(lines))))
    assert [place for part in parts for place in part] == list(range(len(lines)))
    assert [len(part) for part in parts] == [SEQUENCES, SEQUENCES, 150 - 2 * SEQUENCES, 1, 1]


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(EdgeError, match=r"llama\.cpp read no further in broken\.gguf") as told:
        list(scored(broken, [Line((1, 2, 3), 1)], 3))
    assert "cannot load" in str(told.value) and "engine=torch" in told.value.hint
    with pytest.raises(EdgeError, match="no token of its own"):
        list(scored(broken, [Line((1, 2, 3), 1, 2)], 3))
    monkeypatch.setitem(llama_api._FUNCTIONS, "llama_of_tomorrow", (None, ()))
    with pytest.raises(EdgeError, match="does not hand out llama_of_tomorrow"):
        llama_api.functions()
