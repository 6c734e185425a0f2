"""What a teacher says comes next, told to a student of another tokenizer: both stand at the same byte of the same text.

    Spelling      the bytes of each token of one tokenizer
    Vocabularies  `aligned`: which place of the teacher's is a place of the student's; `translated`: what it says there,
                  in the student's tokens

Places are paired where both tokenizers have a border at the same byte offset (ULD, Boizard et al. 2024; GOLD, TRL 2025).
There, both say which bytes come next, in tokens of their own. GOLD pairs tokens of the same name and loses the teacher's
`":{"` where the student writes `":` and `{"`. Here a teacher's token is the first of those in which the student's tokenizer
writes its bytes, and the mass of all that start alike adds up: the teacher's marginal over the student's next token. For the
same tokenizer that is what the teacher said, unchanged. Of Qwen2.5's tokens 26 % have a namesake in SmolLM2, 99.9 % a first
token; of those written in phone_actions' answers, 82 % become what SmolLM2 writes by their name, 99 % by their first. What it
cannot see:

  - which bytes come behind a teacher's token: the student may write its end and the start of the next as one. For the text
    itself this is known, so the token that the teacher wrote becomes the one that the student writes there;
  - what the teacher says inside that one, if it is longer (1 % of places): it gets all the mass of the teacher's token;
  - tokens that are part of a character, for a student that does not spell in bytes. Their mass is the tail's.

Shapes: T the teacher's tokens of one completion, S the student's, K kept tokens a place, A places that are aligned, V the
teacher's vocabulary. Place t is before token t: row t of the kept ids is what token t was drawn from.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, chain, takewhile
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from workbench.errors import StudentError
from workbench.students.pieces import Pieces

Tokens = Sequence[int] | np.ndarray

_PROBE = 'ok "1"'  # text that comes back as it is, unless something is put before it
_BLANK = "\u2581"  # SentencePiece's
_UNKNOWN = -2  # not looked up yet
_END = 256  # in texts as numbers: below are bytes, from here on the student's ends
_SHOWN = 24  # bytes of a text in an error
_BYTES = "it works for byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM), and for SentencePiece that puts nothing in front (Gemma)"


class Spelling:
    """The bytes of each token of a tokenizer's vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises StudentError for a tokenizer whose tokens' bytes cannot be told, or that writes more than the text."""
        self._tokenizer: Any = tokenizer
        steps = _decoding(tokenizer)
        kinds = {step["type"] for step in steps}
        self._byte_level = "ByteLevel" in kinds
        if not self._byte_level and not any(_reads_blanks(step) for step in steps):
            raise StudentError(f"the bytes of {_name(tokenizer)}'s tokens cannot be told", _BYTES)
        self._vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        added = self._tokenizer.added_tokens_decoder
        special = set(self._tokenizer.all_special_ids) | {token for token, how in added.items() if how.special}
        self._bytes = [b""] * (1 + max(self._vocabulary.values(), default=-1))
        for text, token in self._vocabulary.items():
            if token in added:
                self._bytes[token] = b"" if token in special else text.encode()
            elif token not in special:
                self._bytes[token] = _byte_level(text) if self._byte_level else _pieced(text, "ByteFallback" in kinds)
        found = self.spelled(self._tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
        if found != _PROBE.encode():
            raise StudentError(f"{_name(tokenizer)} writes {_PROBE!r} as {found!r}", _BYTES)

    def __len__(self) -> int:
        """Ids of the vocabulary, holes included."""
        return len(self._bytes)

    def shared(self, other: "Spelling") -> list[int]:
        """The ids that are the same token in both, if one vocabulary is the other's beginning; of different tokenizers none."""
        few, many = sorted((self._vocabulary, other._vocabulary), key=len)
        return list(few.values()) if few.items() <= many.items() else []

    def of(self, token: int) -> bytes:
        """b"" for special tokens, which are not text, and for ids that the vocabulary does not have."""
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def spelled(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self.of, tokens))

    def first(self, texts: Sequence[bytes]) -> list[int]:
        """The first of the tokens in which the tokenizer writes each of `texts`, alone; -1 where that cannot be told."""
        found = [-1] * len(texts)
        whole = {}
        for turn, text in enumerate(texts):
            try:
                if text:
                    whole[turn] = text.decode("utf-8")
            except UnicodeDecodeError:
                found[turn] = self._first_of_part(text)
        if whole:
            # What looks like a special token is text here, as it is for the teacher.
            written = self._tokenizer([*whole.values()], add_special_tokens=False, split_special_tokens=True)
            for turn, tokens in zip(whole, written["input_ids"], strict=True):
                found[turn] = tokens[0] if tokens else -1
        # A tokenizer may drop bytes that it has no token for, and normalize others.
        return [
            token if self.of(token) and text.startswith(self.of(token)) else -1
            for token, text in zip(found, texts, strict=True)
        ]

    def _first_of_part(self, text: bytes) -> int:
        """Of bytes that are not UTF-8, as in a part of a character: no text to encode, but the merges know them."""
        if not self._byte_level:
            return -1
        tokens = self._tokenizer.backend_tokenizer.model.tokenize("".join(_characters()[byte] for byte in text))
        return int(tokens[0].id) if tokens else -1


class Vocabularies:
    """A teacher's tokens as a student's. What was looked up once is kept."""

    def __init__(self, teacher: Spelling | Pieces, student: Spelling, *, ends: Mapping[int, int]) -> None:
        """`ends`: the teacher's special tokens that mean one of the student's, its ends of turn above all. Other special tokens
        are the student's only where both have one vocabulary."""
        self._teacher, self._student, self._ends = teacher, student, dict(ends)
        self._marks = set(self._ends.values())
        text_V = np.array([bool(teacher.of(token)) for token in range(len(teacher))], dtype=bool)
        self._first_V = np.where(text_V, _UNKNOWN, -1)
        shared = teacher.shared(student) if isinstance(teacher, Spelling) else []
        self._first_V[shared] = shared
        beyond = 1 + max(self._ends, default=-1) - len(self._first_V)
        self._first_V = np.pad(self._first_V, (0, max(0, beyond)), constant_values=-1)
        for token, meant in self._ends.items():
            self._first_V[token] = meant

    def first(self, ids: np.ndarray) -> np.ndarray:
        """The student's token that each teacher's token starts with, int64 of the same shape; -1 where there is none."""
        inside = (ids >= 0) & (ids < len(self._first_V))
        places = np.where(inside, ids, 0)
        new = np.unique(ids[inside & (self._first_V[places] == _UNKNOWN)])
        if len(new):
            self._first_V[new] = self._student.first([self._teacher.of(token) for token in new.tolist()])
        return np.where(inside, self._first_V[places], -1)

    def aligned(self, teacher_T: Tokens, student_S: Tokens) -> np.ndarray:
        """(S,) int64: the teacher's place at the byte where each of the student's tokens starts; -1 where the teacher has none.

        Both are one completion, with its end of turn or without. Raises StudentError where they are not the same text.
        """
        pieces_T = [self._teacher_piece(int(token)) for token in teacher_T]
        pieces_S = [self._student_piece(int(token)) for token in student_S]
        _check_same([*chain(*pieces_T)], [*chain(*pieces_S)])
        place = {start: turn for turn, start in enumerate(_starts(pieces_T))}
        return np.array([place.get(start, -1) for start in _starts(pieces_S)], dtype=np.int64)

    def translated(
        self,
        teacher_T: Tokens,
        ids_T_K: np.ndarray,
        logprobs_T_K: np.ndarray,
        student_S: Tokens,
        at_S: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher says at each of the student's places: ids (S, K) int64, log-probabilities (S, K) float32.

        `at_S` is what `aligned` gave for the same tokens, `ids_T_K` may hold -1 where fewer than K were kept. Slots that were
        merged into an earlier one, or have no counterpart, and all of a place that is not aligned, are -1 and -inf. So what a
        row lacks to 1 is the tail: what was not kept, and what the student has no token for. Raises StudentError.
        """
        if not len(ids_T_K) == len(logprobs_T_K) == len(teacher_T) or len(at_S) != len(student_S):
            raise StudentError(
                f"{len(ids_T_K)} kept rows for {len(teacher_T)} teacher tokens, {len(at_S)} places for {len(student_S)}",
                "the kept distributions are of other tokens; make them anew",
            )
        ids_S_K = np.full((len(at_S), ids_T_K.shape[1]), -1, dtype=np.int64)
        logprobs_S_K = np.full(ids_S_K.shape, -np.inf, dtype=np.float32)
        places_A = np.flatnonzero(at_S >= 0)
        rows_A = at_S[places_A]
        kept_A_K, logprobs_A_K = ids_T_K[rows_A], logprobs_T_K[rows_A].astype(np.float64)
        written_A_1 = np.asarray(teacher_T, dtype=np.int64)[rows_A, None]
        student_A_1 = np.asarray(student_S, dtype=np.int64)[places_A, None]
        ids_A_K = np.where(kept_A_K == written_A_1, student_A_1, self.first(kept_A_K))
        ids_A_K[~(logprobs_A_K > -np.inf)] = -1
        ids_S_K[places_A], logprobs_S_K[places_A] = merged(ids_A_K, logprobs_A_K)
        return ids_S_K, logprobs_S_K

    def _teacher_piece(self, token: int) -> Sequence[int]:
        text = b"" if token in self._ends else self._teacher.of(token)
        if text:
            return text
        meant = int(self.first(np.array(token)))
        return (_END + meant if meant >= 0 else -1 - token,)

    def _student_piece(self, token: int) -> Sequence[int]:
        text = b"" if token in self._marks else self._student.of(token)
        return text or (_END + token,)


def share(at_S: np.ndarray) -> float:
    """Of the student's tokens, how many are aligned: 0 to 1."""
    return float((at_S >= 0).sum() / max(1, len(at_S)))


def merged(ids_A_K: np.ndarray, logprobs_A_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal ids of a row as one, in the first of their slots, with the sum of their mass; the other slots are -1 and -inf."""
    merged_A_K, sums_A_K = np.full_like(ids_A_K, -1), np.full_like(logprobs_A_K, -np.inf)
    if not ids_A_K.size:
        return merged_A_K, sums_A_K
    order_A_K = np.argsort(ids_A_K, axis=1, kind="stable")
    sorted_A_K = np.take_along_axis(ids_A_K, order_A_K, axis=1)
    opens_A_K = np.ones(sorted_A_K.shape, dtype=bool)
    opens_A_K[:, 1:] = sorted_A_K[:, 1:] != sorted_A_K[:, :-1]
    starts_G = np.flatnonzero(opens_A_K)  # G groups of equal ids
    sums_G = np.logaddexp.reduceat(np.take_along_axis(logprobs_A_K, order_A_K, axis=1).ravel(), starts_G)
    ids_G = sorted_A_K.ravel()[starts_G]
    slots_G = order_A_K.ravel()[starts_G]
    real_G = ids_G >= 0
    where = (starts_G // ids_A_K.shape[1])[real_G], slots_G[real_G]
    merged_A_K[where], sums_A_K[where] = ids_G[real_G], sums_G[real_G]
    return merged_A_K, sums_A_K


def _starts(pieces: Sequence[Sequence[int]]) -> list[int]:
    """Where each piece starts; an end of turn is as long as one byte, so that no two start together."""
    return list(accumulate(map(len, pieces), initial=0))[:-1]


def _check_same(teacher: Sequence[int], student: Sequence[int]) -> None:
    """Raises StudentError where two texts part. One of them may have an end of turn that the other was cut off before."""
    parts = next((n for n, (one, other) in enumerate(zip(teacher, student, strict=False)) if one != other), None)
    both = min(len(teacher), len(student))
    rest = [*teacher[both:], *student[both:]]
    if parts is None and (not rest or (len(rest) == 1 and rest[0] >= _END)):
        return
    at = both if parts is None else parts
    raise StudentError(
        f"teacher and student spell different text from byte {at} on: {_shown(teacher[at:])} and {_shown(student[at:])}",
        "encode the same completion for both; a tokenizer that normalizes it (NFC), or has no token for a byte, changes it",
    )


def _shown(text: Sequence[int]) -> str:
    shown = bytes(takewhile(range(_END).__contains__, text[:_SHOWN]))
    return repr(shown) if shown else "a special token" if text else "nothing"


def _decoding(tokenizer: Any) -> list[dict[str, Any]]:
    """The steps that make text of tokens, as in tokenizer.json."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return []
    state: dict[str, Any] = json.loads(decoder.__getstate__())
    steps: list[dict[str, Any]] = state.get("decoders", [state])
    return steps


def _reads_blanks(step: Mapping[str, Any]) -> bool:
    """Whether it is the step that makes a blank of SentencePiece's."""
    if step["type"] == "Metaspace":
        return bool(step["replacement"] == _BLANK)
    return bool(step["type"] == "Replace" and step["pattern"] == {"String": _BLANK} and step["content"] == " ")


def _pieced(text: str, fallback: bool) -> bytes:
    """Of a SentencePiece token: <0x0A> is a byte where there is a fallback to bytes."""
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", text) if fallback else None
    return bytes.fromhex(byte[1]) if byte else text.replace(_BLANK, " ").encode()


def _byte_level(text: str) -> bytes:
    """Of a byte-level token; where a character stands for no byte, it is the text itself, as in `tokenizers`."""
    found = [_table().get(character) for character in text]
    return text.encode() if None in found else bytes(byte for byte in found if byte is not None)


@cache
def _table() -> dict[str, int]:
    """GPT-2's characters for bytes (Radford et al. 2019): printable ones are themselves, the others are moved up by 256."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + turn): byte for turn, byte in enumerate(moved)}


@cache
def _characters() -> dict[int, str]:
    return {byte: character for character, byte in _table().items()}


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "")).rstrip("/").rpartition("/")[2] or type(tokenizer).__name__
