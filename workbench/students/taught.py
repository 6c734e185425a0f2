"""A teacher's stored distributions as a student's soft targets: each row's, on the student's own tokens.

Where both stand at the same byte of the answer, the student is told what the teacher thinks comes next (`align`); elsewhere,
and of rows that are not in the file, nothing: the text alone counts there.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.digest import digest, file_digest
from workbench.errors import StudentError
from workbench.logits import LogitFile
from workbench.students.align import Spelling, Vocabularies
from workbench.students.divergence import Blend, Soft
from workbench.students.load import load_tokenizer
from workbench.students.pieces import END, Pieces
from workbench.students.pieces import FILE as PIECES
from workbench.students.rendering import rendering_for
from workbench.students.settings import Pair


class Taught:
    """`file` was made with the tokenizer in the folder `teacher`, or with the pieces there; `student` is the student's folder.
    Raises LogitError where the file is another tokenizer's, StudentError where tokens cannot be told apart."""

    def __init__(self, file: Path, teacher: Path, student: Path, blend: Blend) -> None:
        self.blend = blend
        named = (teacher / PIECES).is_file()
        fingerprint = file_digest(teacher / PIECES) if named else tokenizer_digest(teacher)
        self._file = LogitFile(file, tokenizer=str(teacher), fingerprint=fingerprint)
        theirs = Pieces.read(teacher) if named else Spelling(load_tokenizer(teacher))
        ends = {END if named else end_of_turn(teacher): end_of_turn(student)}
        self._vocabularies = Vocabularies(theirs, Spelling(load_tokenizer(student)), ends=ends)
        self._tokens = self._aligned = 0
        self.unlike = 0  # rows that the two tokenizers spell differently
        self.name = digest([file_digest(file), tokenizer_digest(student), blend._asdict()])

    def of(self, pair: Pair, student_S: Sequence[int]) -> Soft | None:
        """What the teacher says of each of the completion's tokens; None of a row that it was not asked about."""
        name = name_of(pair.prompt, pair.completion)
        if name not in self._file:
            return None
        self._tokens += len(student_S)
        row = self._file[name]
        try:
            at_S = self._vocabularies.aligned(row.tokens_T, student_S)
        except StudentError:  # one of the two tokenizers changes what is written (a decomposed accent, a byte it lacks)
            self.unlike += 1
            return None
        self._aligned += int((at_S >= 0).sum())
        ids_S_K, logs_S_K = self._vocabularies.translated(row.tokens_T, row.ids_T_K, row.logprobs_T_K, student_S, at_S)
        return Soft.of(torch.from_numpy(ids_S_K), torch.from_numpy(logs_S_K))

    @property
    def share(self) -> float:
        """Of the tokens of rows that the teacher read, those of which it says something, 0 to 1."""
        return self._aligned / max(1, self._tokens)


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
