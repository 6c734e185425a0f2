"""Teachers' stored distributions as a student's soft targets: each row's, on the student's own tokens.

Where both stand at the same byte of the answer, the student is told what the teacher thinks comes next (`align`); elsewhere,
and of rows that are not in the file, nothing: the text alone counts there. Where several say something at a place, it is
told their mixture: what one of them did not keep of a token that another names is in the tail.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from workbench.digest import digest, file_digest
from workbench.errors import StudentError
from workbench.logits import LogitFile
from workbench.students.align import Spelling, Vocabularies, merged
from workbench.students.divergence import Blend, Soft
from workbench.students.load import load_tokenizer
from workbench.students.pieces import END, Pieces
from workbench.students.pieces import FILE as PIECES
from workbench.students.rendering import rendering_for
from workbench.students.settings import Captured, Pair


class Taught:
    """`captured` says what was made with which tokenizer; `student` is the student's folder; of a mixture the `k` likeliest are
    kept. Raises LogitError where a file is another tokenizer's, StudentError where tokens cannot be told apart."""

    def __init__(self, captured: Sequence[Captured], student: Path, blend: Blend, *, k: int) -> None:
        self.blend = blend
        own = Spelling(load_tokenizer(student))
        self._teachers = [_Teacher(each, own, end_of_turn(student)) for each in captured]
        self._k = k
        self._tokens = self._aligned = 0
        self.unlike = 0  # rows that two tokenizers spell differently
        files = [[file_digest(each.file), each.weight] for each in captured]
        self.name = digest([files, tokenizer_digest(student), blend._asdict(), k])

    def of(self, pair: Pair, student_S: Sequence[int]) -> Soft | None:
        """What the teachers say of each of the completion's tokens; None of a row that none was asked about."""
        name = name_of(pair.prompt, pair.completion)
        asked = [teacher for teacher in self._teachers if name in teacher.file]
        if not asked:
            return None
        self._tokens += len(student_S)
        said: list[Said] = []
        for teacher in asked:
            try:
                said.append(teacher.says(name, student_S))
            except StudentError:  # a tokenizer changes what is written (a decomposed accent, a byte it lacks)
                self.unlike += 1
        if not said:
            return None
        ids_S_K, logs_S_K = mixture(said, self._k) if len(said) > 1 else said[0][:2]
        self._aligned += int((ids_S_K >= 0).any(1).sum())
        return Soft.of(torch.from_numpy(ids_S_K), torch.from_numpy(logs_S_K))

    @property
    def share(self) -> float:
        """Of the tokens of rows that the teacher read, those of which it says something, 0 to 1."""
        return self._aligned / max(1, self._tokens)


class Said(NamedTuple):
    """One teacher's, by the student's ids (S, K), -1 where there is none; log-probabilities (S, K)."""

    ids_S_K: np.ndarray
    logs_S_K: np.ndarray
    weight: float


class _Teacher:
    def __init__(self, captured: Captured, student: Spelling, end: int) -> None:
        folder, self.weight = captured.tokenizer, captured.weight
        named = (folder / PIECES).is_file()
        fingerprint = file_digest(folder / PIECES) if named else tokenizer_digest(folder)
        self.file = LogitFile(captured.file, tokenizer=str(folder), fingerprint=fingerprint)
        theirs = Pieces.read(folder) if named else Spelling(load_tokenizer(folder))
        self._vocabularies = Vocabularies(theirs, student, ends={END if named else end_of_turn(folder): end})

    def says(self, name: str, student_S: Sequence[int]) -> Said:
        """Raises StudentError where the two tokenizers write different text."""
        row = self.file[name]
        at_S = self._vocabularies.aligned(row.tokens_T, student_S)
        return Said(
            *self._vocabularies.translated(row.tokens_T, row.ids_T_K, row.logprobs_T_K, student_S, at_S), self.weight
        )


def mixture(said: Sequence[Said], k: int) -> tuple[np.ndarray, np.ndarray]:
    """The weighted mean of what is said at each place, by those who say anything there: the k likeliest, as in Said."""
    weights_N_S = np.array([each.weight * (each.ids_S_K >= 0).any(1) for each in said])
    with np.errstate(divide="ignore"):  # who says nothing counts nothing: -inf
        logs_N_S = np.log(weights_N_S / weights_N_S.sum(0).clip(min=min(each.weight for each in said)))
    parts = [each.logs_S_K + logs_S[:, None] for each, logs_S in zip(said, logs_N_S, strict=True)]
    ids_S_K, logs_S_K = merged(np.hstack([each.ids_S_K for each in said]), np.hstack(parts))
    order_S_K = np.argsort(-logs_S_K, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids_S_K, order_S_K, axis=1), np.take_along_axis(logs_S_K, order_S_K, axis=1).astype(
        np.float32
    )


def name_of(prompt: str, completion: str) -> str:
    """A row's, in the file: the same for all that read and write the same."""
    return digest([prompt, completion])[:24]


def tokenizer_digest(folder: Path) -> str:
    """What tells a tokenizer from another."""
    return file_digest(folder / "tokenizer.json")


def end_of_turn(folder: Path) -> int:
    """The token that ends an answer. Raises StudentError."""
    token = load_tokenizer(folder).convert_tokens_to_ids(rendering_for(folder).end_of_turn)
    assert isinstance(token, int), "one token is asked for"
    return token
