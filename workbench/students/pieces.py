"""A teacher behind an API names its tokens by their bytes and not by ids: the pieces that it named are its vocabulary.

pieces.json      their bytes by id, as characters of the same number (latin-1), beside the file of its distributions
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.errors import LogitError
from workbench.logit_codec import flaw
from workbench.logits import Row
from workbench.types import TokenLogprobs

FILE = "pieces.json"
END = 0  # the id of a turn's end, whatever a server calls it


class Pieces:
    """Ids for pieces, in the order in which they come. The `spare` ids behind END are of no piece: they fill places where fewer
    tokens were named than elsewhere, at no probability."""

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._bytes = [b""] * (1 + spare)
        self._ids: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._bytes)

    def of(self, token: int) -> bytes:
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def named(self, piece: bytes) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self._bytes)
            self._bytes.append(piece)
        return self._ids[piece]

    def row(self, told: Sequence[TokenLogprobs], text: str) -> Row | None:
        """What was told of the tokens that write `text` and maybe blanks around it, (T,) and (T, K) with K the most that were
        named at one place and no more than the spare ids; None where they write something else, or nothing, or where that is
        no distribution. Where the server told of the end of the turn too (llama.cpp's does), that is the last token."""
        rest, tokens, places = text.encode(), list[int](), list[dict[int, float]]()
        end = _end(told, rest)
        for each in told:
            piece = each.token.encode("latin-1")
            if not places and piece.isspace():
                continue
            if rest and not (piece and piece.startswith(rest[: len(piece)])):
                return None
            if not rest and each.token != end:
                break
            written = self.named(piece[: len(rest)]) if rest else END  # a line's end may be a part of the last token
            tokens.append(written)
            places.append(self._place(each, written, end))
            rest = rest[len(piece) :]
        most = max(map(len, places), default=0)
        if rest or not most:
            return None
        ids_T_K = np.tile(np.arange(1, 1 + most, dtype=np.int32), (len(tokens), 1))
        logprobs_T_K = np.full(ids_T_K.shape, -np.inf, dtype=np.float32)
        for place, known in enumerate(places):
            ids_T_K[place, : len(known)], logprobs_T_K[place, : len(known)] = [*known], [*known.values()]
        row = Row(np.array(tokens, dtype=np.int32), ids_T_K, logprobs_T_K)
        return None if flaw(row, self._spare, len(self)) else row

    def _place(self, each: TokenLogprobs, written: int, end: str | None) -> dict[int, float]:
        """The likeliest first. What is named by no text, and is not the end, is left to the tail."""
        known: dict[int, float] = {}
        for other, logprob in each.top:
            if other in (each.token, end):
                token = written if other == each.token else END
            elif other:
                token = self.named(other.encode("latin-1"))
            else:
                continue
            known[token] = float(np.logaddexp(known.get(token, -np.inf), logprob))
        return dict(sorted(known.items(), key=lambda item: -item[1])[: self._spare])

    def write(self, folder: Path) -> None:
        text = json.dumps([piece.decode("latin-1") for piece in self._bytes], ensure_ascii=False)
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Pieces":
        """Raises LogitError."""
        path = folder / FILE
        try:
            texts = json.loads(path.read_text(encoding="utf-8"))
            found = cls(0)
            found._bytes = [text.encode("latin-1") for text in texts]
        except (OSError, ValueError, AttributeError) as error:
            raise LogitError(f"{path} cannot be read: {error}", "remove its folder and run again") from error
        return found


def _end(told: Sequence[TokenLogprobs], text: bytes) -> str | None:
    """What the server calls the end of a turn, where it told of that: the one token behind the text."""
    written = b"".join(each.token.encode("latin-1") for each in told[:-1])
    last = told[-1].token if told else " "
    return last if written.strip() == text and not last.isspace() else None
