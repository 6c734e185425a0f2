"""Two tokenizers on one text: which places are the same, and what a teacher's distribution is in a student's tokens."""

import json
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE, WordPiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from workbench import models
from workbench.errors import StudentError
from workbench.students.align import Spelling, Vocabularies, share

ROOT = Path(__file__).parents[1]
END = "<|end|>"
HARD = [
    '{"name":"set_timer","arguments":{"minutes":10}}', '","', '"}}]', '":{"', "2026-11-23", "0.5", "1,000", "½ ²", "٣٤",
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "e\u0301 n\u0303 é", "ﬁ Å", "日本語の文字", "中", "مرحبا بالعالم", "שלום", "한국어", "ไทย",
    "   ", "\t", "\t\t x", "\n", "\n\n\n", "\r\n", " \n ", "\u00a0", "\u200d", "'s", "don't", " the", "set_timer", "naïve",
    "a", "", "<0x0A>",
]  # fmt: skip
TRAINED_ON = [
    *(text for text in HARD if "0x" not in text),  # or a token would be named like a byte's
    '[{"name":"set_timer","arguments":{"minutes":25,"label":"tea"}}]',
    "the set timer rings the timer",
    "日本",
]


def wrapped(tokenizer: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def merging(*merges: str) -> Any:
    """A byte-level tokenizer of these merges ("a b"); ids: 0 the end, then 256 bytes, then a token a merge."""
    pairs = [(left, right) for left, right in (merge.split() for merge in merges)]
    tokens = [END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in pairs)]
    tokenizer = Tokenizer(BPE(vocab={token: turn for turn, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return wrapped(tokenizer)


def sentencepiece(*, blank_in_front: bool = False) -> Any:
    """As Gemma's: blanks are "▁", what is not in the vocabulary is bytes. Llama 2's puts a blank in front of each text."""
    steps: list[Any] = [normalizers.Prepend("▁")] if blank_in_front else []
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ascii_text = [text for text in TRAINED_ON if text.isascii()] + ['ok "1"']
    tokenizer.train_from_iterator(
        ascii_text, trainers.BpeTrainer(vocab_size=200, special_tokens=[END], show_progress=False)
    )
    made = json.loads(tokenizer.to_str())["model"]
    vocabulary = made["vocab"] | {f"<0x{byte:02X}>": len(made["vocab"]) + byte for byte in range(256)}
    merges = [(left, right) for left, right in made["merges"]]
    tokenizer.model = BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return wrapped(tokenizer)


def learned() -> Any:
    """A byte-level tokenizer that merges over the borders of words, as nobody's does: the hardest to align."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINED_ON * 2, trainer)
    return wrapped(tokenizer)


class Side:
    """A tokenizer with what it spells, and its end of turn."""

    def __init__(self, tokenizer: Any, end: str = END) -> None:
        self.tokenizer, self.spelling = tokenizer, Spelling(tokenizer)
        self.end = int(tokenizer.convert_tokens_to_ids(end))

    @cached_property
    def own(self) -> Vocabularies:
        return between(self, self)

    def tokens(self, text: str) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def token(self, text: bytes) -> int:
        return next(token for token in range(len(self.spelling)) if self.spelling.of(token) == text)


def between(teacher: Side, student: Side) -> Vocabularies:
    return Vocabularies(teacher.spelling, student.spelling, ends={teacher.end: student.end})


@pytest.fixture(scope="module")
def smollm(smollm2_hf: Path) -> Side:
    return Side(AutoTokenizer.from_pretrained(smollm2_hf, local_files_only=True), "<|im_end|>")


@pytest.fixture(scope="module")
def qwen() -> Side:
    """As a run with the white-box teacher unpacked it; it is not unpacked for this (3.5 GB)."""
    for folder in sorted((models.cache_dir() / "students").glob("hf-*")):
        if json.loads((folder / "config.json").read_text("utf-8")).get("model_type") == "qwen2":
            return Side(AutoTokenizer.from_pretrained(folder, local_files_only=True), "<|im_end|>")
    pytest.skip("Qwen's tokenizer is not at hand: no run has unpacked the teacher into the cache")


@pytest.fixture(
    scope="module", params=["learned>smollm", "smollm>learned", "learned>pieces", "pieces>smollm", "qwen>smollm"]
)
def pair(request: pytest.FixtureRequest) -> tuple[Side, Side, Vocabularies]:
    def made(name: str) -> Side:
        if name in ("smollm", "qwen"):
            found: Side = request.getfixturevalue(name)
            return found
        return Side(learned() if name == "learned" else sentencepiece())

    teacher, student = map(made, request.param.split(">"))
    return teacher, student, between(teacher, student)


texts = st.lists(st.sampled_from(HARD) | st.text(max_size=6), max_size=6).map("".join)


# --- places


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_aligned_places_are_at_the_same_byte_and_no_such_place_is_missed(
    pair: tuple[Side, Side, Vocabularies], text: str
) -> None:
    teacher, student, vocabularies = pair
    teacher_T, student_S = teacher.tokens(text), student.tokens(text)
    if teacher.spelling.spelled(teacher_T) != student.spelling.spelled(
        student_S
    ):  # one has no token for a control byte
        with pytest.raises(StudentError, match="spell different text from byte"):
            vocabularies.aligned(teacher_T, student_S)
        return
    at_S = vocabularies.aligned(teacher_T, student_S)
    assert at_S.dtype == np.int64 and at_S.shape == (len(student_S),)
    assert at_S[0] == 0 and at_S[-1] == len(teacher_T) - 1
    found = [int(at) for at in at_S if at >= 0]
    assert all(before < after for before, after in pairwise(found))
    starts = [len(teacher.spelling.spelled(teacher_T[:turn])) for turn in range(len(teacher_T))]
    for turn, at in enumerate(at_S):
        start = len(student.spelling.spelled(student_S[:turn]))
        assert starts[at] == start if at >= 0 else start not in starts
    assert teacher.own.aligned(teacher_T, teacher_T).tolist() == list(range(len(teacher_T)))


@pytest.mark.parametrize("text", HARD)
def test_hard_text_is_spelled_as_it_is(pair: tuple[Side, Side, Vocabularies], text: str) -> None:
    teacher, student, vocabularies = pair
    if "NFC" in str(teacher.tokenizer.backend_tokenizer.normalizer):  # Qwen's
        text = unicodedata.normalize("NFC", text)
    teacher_T, student_S = teacher.tokens(text), student.tokens(text)
    assert teacher.spelling.spelled(teacher_T) == text.encode() == student.spelling.spelled(student_S)
    assert 0 < share(vocabularies.aligned(teacher_T, student_S)) <= 1


def test_an_empty_completion_is_its_end() -> None:
    teacher, student = Side(merging("a b")), Side(merging())
    assert between(teacher, student).aligned([teacher.end], [student.end]).tolist() == [0]
    assert between(teacher, student).aligned([], []).tolist() == []
    assert share(np.array([0])) == 1.0 and share(np.array([], dtype=np.int64)) == 0.0


def test_one_of_them_may_have_been_cut_off_before_its_end() -> None:
    teacher, student = Side(merging("a b")), Side(merging())
    vocabularies = between(teacher, student)
    assert vocabularies.aligned(teacher.tokens("abc")[:-1], student.tokens("abc")).tolist() == [0, -1, 1, -1]
    assert vocabularies.aligned(teacher.tokens("abc"), student.tokens("abc")[:-1]).tolist() == [0, -1, 1]


def test_ends_inside_a_text_have_a_place() -> None:
    teacher, student = Side(merging("a b")), Side(merging("b c"))
    at_S = between(teacher, student).aligned(
        [*teacher.tokens("ab"), *teacher.tokens("abc")], [*student.tokens("ab"), *student.tokens("abc")]
    )
    assert at_S.tolist() == [0, -1, 1, 2, -1, 4]


def test_several_ends_may_mean_one() -> None:
    teacher, student = Side(merging()), Side(merging("a b"))
    teacher.tokenizer.add_special_tokens({"additional_special_tokens": ["<|stop|>"]})
    stop = teacher.tokenizer.convert_tokens_to_ids("<|stop|>")
    both = Vocabularies(
        Spelling(teacher.tokenizer), student.spelling, ends={teacher.end: student.end, stop: student.end}
    )
    assert both.aligned([*teacher.tokens("a")[:-1], stop], student.tokens("a")).tolist() == [0, 1]
    with pytest.raises(StudentError, match=r"from byte 1 on: a special token and a special token"):
        between(teacher, student).aligned([*teacher.tokens("a")[:-1], stop], student.tokens("a"))


def test_different_texts_are_told_apart_with_the_byte() -> None:
    teacher, student = Side(merging("a b")), Side(merging())
    vocabularies = between(teacher, student)
    with pytest.raises(StudentError, match=r"from byte 3 on: b'\\xc3\\xa9' and b'e'") as told:
        vocabularies.aligned(teacher.tokens("abcé"), student.tokens("abce"))
    assert "NFC" in told.value.hint
    with pytest.raises(StudentError, match=r"from byte 1 on: b'b' and nothing"):
        vocabularies.aligned(teacher.tokens("ab")[:-1], student.tokens("a")[:-1])


# --- distributions


def kept(*rows: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of token -> probability, padded with -1."""
    width = max(map(len, rows))
    ids = [[*row, *[-1] * (width - len(row))] for row in rows]
    return np.array(ids), np.log([[*row.values(), *[1.0] * (width - len(row))] for row in rows])


def mass(ids_S_K: np.ndarray, logprobs_S_K: np.ndarray) -> list[dict[int, float]]:
    return [
        {int(token): round(float(np.exp(logprob)), 5) for token, logprob in zip(*row, strict=True) if token >= 0}
        for row in zip(ids_S_K, logprobs_S_K, strict=True)
    ]


def test_what_starts_with_the_same_student_token_adds_up_and_the_rest_is_the_tails() -> None:
    teacher, student = Side(merging("a b", "ab c", "x y")), Side(merging("a b"))
    text = "abcab"
    teacher_T, student_S = teacher.tokens(text), student.tokens(text)
    at_S = between(teacher, student).aligned(teacher_T, student_S)
    assert at_S.tolist() == [0, -1, 1, 2]
    abc, ab, a, xy = (teacher.token(text) for text in (b"abc", b"ab", b"a", b"xy"))
    beyond = len(teacher.spelling) + 5  # a padded head has rows that no token stands for
    ids, logprobs = kept(
        {abc: 0.5, ab: 0.2, beyond: 0.05, a: 0.1, xy: 0.04}, {ab: 0.9, teacher.end: 0.1}, {teacher.end: 1}
    )
    found = between(teacher, student).translated(teacher_T, ids, logprobs, student_S, at_S)
    assert found[0].dtype == np.int64 and found[1].dtype == np.float32
    ours = {text: student.token(text) for text in (b"ab", b"a", b"x")}
    assert mass(*found) == [
        {ours[b"ab"]: 0.7, ours[b"a"]: 0.1, ours[b"x"]: 0.04}, {}, {ours[b"ab"]: 0.9, student.end: 0.1}, {student.end: 1},
    ]  # fmt: skip
    assert found[0][0].tolist() == [ours[b"ab"], -1, -1, ours[b"a"], ours[b"x"]]
    assert ((found[0] >= 0) == np.isfinite(found[1])).all()


def test_the_token_that_was_written_is_the_one_that_the_student_writes_there() -> None:
    teacher, student = Side(merging()), Side(merging("a b"))
    vocabularies = between(teacher, student)
    teacher_T, student_S = teacher.tokens("ab"), student.tokens("ab")
    at_S = vocabularies.aligned(teacher_T, student_S)
    a, x = teacher.token(b"a"), teacher.token(b"x")
    found = vocabularies.translated(teacher_T, *kept({x: 0.1, a: 0.9}, {}, {}), student_S, at_S)
    assert mass(*found) == [{student.token(b"x"): 0.1, student.token(b"ab"): 0.9}, {}]
    with pytest.raises(StudentError, match="1 kept rows for 3 teacher tokens, 2 places for 2"):
        vocabularies.translated(teacher_T, *kept({a: 1.0}), student_S, at_S)


def test_special_tokens_are_the_students_only_in_ends_or_in_the_same_tokenizer() -> None:
    teacher, student = Side(merging("a b")), Side(merging("x y"))
    ids = np.array([[teacher.end, -1, 10**6]])
    assert between(teacher, student).first(ids).tolist() == [[student.end, -1, -1]]
    assert Vocabularies(teacher.spelling, student.spelling, ends={}).first(ids).tolist() == [[-1, -1, -1]]
    same = Vocabularies(teacher.spelling, Side(merging("a b")).spelling, ends={})
    assert same.first(np.arange(len(teacher.spelling))).tolist() == list(range(len(teacher.spelling)))


def test_one_vocabulary_may_go_on_where_the_other_ends() -> None:
    few, many = Side(merging("a b")), Side(merging("a b", "x y"))
    ids = np.arange(len(many.spelling))
    known = list(range(len(few.spelling)))
    assert Vocabularies(many.spelling, few.spelling, ends={}).first(ids).tolist() == [*known, few.token(b"x")]
    assert Vocabularies(few.spelling, many.spelling, ends={}).first(ids).tolist() == [*known, -1]


def drawn(teacher: Side, teacher_T: list[int], seed: int, k: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """For each token k ids with 90 % of the mass, itself among them, the others any."""
    rng = np.random.default_rng(seed)
    ids = np.array([rng.choice(len(teacher.spelling), k, replace=False) for _ in teacher_T])
    for row, token in zip(ids, teacher_T, strict=True):
        if token not in row:
            row[rng.integers(k)] = token
    return ids, np.log(0.9 * rng.dirichlet(np.full(k, 0.3), len(teacher_T)) + 1e-9)


@settings(max_examples=60, deadline=None)
@given(text=texts, seed=st.integers(0, 2**32 - 1))
def test_mass_is_moved_and_never_made(pair: tuple[Side, Side, Vocabularies], text: str, seed: int) -> None:
    teacher, student, vocabularies = pair
    teacher_T, student_S = teacher.tokens(text), student.tokens(text)
    if teacher.spelling.spelled(teacher_T) != student.spelling.spelled(student_S):
        return
    at_S = vocabularies.aligned(teacher_T, student_S)
    ids_T_K, logprobs_T_K = drawn(teacher, teacher_T, seed)
    ids_S_K, logprobs_S_K = vocabularies.translated(teacher_T, ids_T_K, logprobs_T_K, student_S, at_S)
    assert ids_S_K.shape == logprobs_S_K.shape == (len(student_S), ids_T_K.shape[1])
    assert ((ids_S_K >= 0) == np.isfinite(logprobs_S_K)).all()
    for turn, at in enumerate(at_S):
        if at < 0:
            assert (ids_S_K[turn] == -1).all()
            continue
        named = ids_S_K[turn][ids_S_K[turn] >= 0]
        assert len(set(named.tolist())) == len(named)
        moved = {int(token): float(np.exp(lp)) for token, lp in zip(ids_S_K[turn], logprobs_S_K[turn], strict=True)}
        given_K = np.exp(logprobs_T_K[at])
        assert sum(moved.values()) <= given_K.sum() + 1e-6
        written_K = ids_T_K[at] == teacher_T[at]
        if (written_K | (vocabularies.first(ids_T_K[at]) >= 0)).all():
            assert sum(moved.values()) == pytest.approx(given_K.sum(), abs=1e-6)
        assert moved[student_S[turn]] >= given_K[written_K].sum() - 1e-6
    same = teacher.own.translated(teacher_T, ids_T_K, logprobs_T_K, teacher_T, np.arange(len(teacher_T)))
    assert (same[0] == ids_T_K).all()
    np.testing.assert_allclose(same[1], logprobs_T_K, rtol=1e-6)


# --- tokenizers


def firsts(side: Side, some: Iterable[bytes]) -> list[bytes | None]:
    return [side.spelling.of(token) if token >= 0 else None for token in side.spelling.first(list(some))]


def test_the_first_token_is_the_one_that_the_tokenizer_writes(smollm: Side) -> None:
    assert firsts(smollm, [b'":{"', b"_timer", b" 25", b"don't"]) == [b'":', b"_", b" ", b"don"]
    # Parts of a character have merges, too; <filename> is a special token of SmolLM2's, and the teacher's is text.
    assert firsts(smollm, ["👍".encode()[:2], "é".encode()[1:], b"<filename>"]) == [b"\xf0\x9f", b"\xa9", b"<"]
    assert firsts(smollm, [b"", b"\x04", b"\xff"]) == [None, None, None]  # SmolLM2 has no token for these bytes
    assert smollm.spelling.of(smollm.end) == smollm.spelling.of(-1) == smollm.spelling.of(10**6) == b""


def test_sentencepiece_spells_blanks_and_bytes() -> None:
    side = Side(sentencepiece())
    assert side.spelling.spelled(side.tokens(" tea\n中")) == " tea\n中".encode()
    assert firsts(side, [" 中".encode(), "中".encode(), "中".encode()[:2]]) == [b" ", "中".encode()[:1], None]


def test_metaspace_spells_blanks_too() -> None:
    tokenizer = sentencepiece()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    side = Side(tokenizer)
    assert side.spelling.spelled(side.tokens("the set timer")) == b"the set timer"


def test_tokenizers_that_do_not_spell_the_text_are_refused() -> None:
    with pytest.raises(StudentError, match=r"""writes 'ok "1"' as b' ok "1"'""") as told:
        Spelling(sentencepiece(blank_in_front=True))
    assert "Gemma" in told.value.hint
    pieces = Tokenizer(WordPiece(vocab={"[UNK]": 0, "ok": 1, END: 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    for tokenizer in (wrapped(pieces), object()):
        with pytest.raises(StudentError, match=r"bytes of .* cannot be told"):
            Spelling(tokenizer)


def test_added_tokens_that_are_text_have_bytes() -> None:
    tokenizer = merging()
    tokenizer.add_tokens(["<tool call>"])
    side = Side(tokenizer)
    assert side.spelling.spelled(side.tokens("a<tool call>é")) == "a<tool call>é".encode()


def test_qwen_and_smollm2_on_the_answers_of_phone_actions(qwen: Side, smollm: Side) -> None:
    """85 % of SmolLM2's tokens start where Qwen's do; there, Qwen's token starts with SmolLM2's in 99 of 100."""
    rows = (ROOT / "tasks/data/phone_actions/seeds.jsonl").read_text("utf-8").splitlines()
    vocabularies = between(qwen, smollm)
    all_at, right, namesakes = [], [], []
    ours = {smollm.spelling.of(token): token for token in range(len(smollm.spelling))} | {b"": smollm.end}
    for row in rows:
        text = json.dumps(json.loads(row)["target"], separators=(",", ":"))
        qwen_T, smollm_S = np.array(qwen.tokens(text)), np.array(smollm.tokens(text))
        at_S = vocabularies.aligned(qwen_T.tolist(), smollm_S.tolist())
        all_at.append(at_S)
        there = at_S >= 0
        right.append(vocabularies.first(qwen_T[at_S[there]]) == smollm_S[there])
        same = [ours.get(qwen.spelling.of(int(token)), -1) for token in qwen_T[at_S[there]]]
        namesakes.append(np.array(same) == smollm_S[there])
    with pytest.raises(StudentError, match="spell different text"):  # Qwen's tokenizer normalizes what it reads
        vocabularies.aligned(qwen.tokens("e\u0301"), smollm.tokens("e\u0301"))
    assert 0.83 < share(np.concatenate(all_at)) < 0.87
    assert np.concatenate(right).mean() > 0.98
    assert 0.8 < np.concatenate(namesakes).mean() < 0.85
