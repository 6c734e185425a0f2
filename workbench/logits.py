"""A file of a teacher's top-k next-token distributions: what a student is trained from when the teacher is not there.

    "wblogits", u32 version, u32 length, header (JSON), u32 crc
    row...                                   one behind the other, each with a crc over its name and bytes (logit_codec.py)
    index (zlib)                             names and lengths of the rows, the file's common ids, the step of the levels
    u64 place of the index, u32 length, u32 crc, "wblogend"

Numbers are little-endian. A row holds its ids once, as places in the file's list of common ids where that has them (learnt from
the first rows), and for each token the set of its k among them. Their order follows from their levels: how far below the
likeliest, in steps of 1/32 nat beside it that grow as 1/sqrt(p) to 1/8 (where the first rows are too large, 1/4 or 1/2). What
is not kept, the tail, is a float16 logarithm against the likeliest; reading is a softmax over levels and tail.

Ids and tokens come back exactly, a log-probability within one widest step of what was added, -inf as -inf. Not kept: the order
of ids on one level (the likeliest stays first), and how far beyond 128 nats below the likeliest something is.
"""

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from workbench.errors import LogitError
from workbench.logit_codec import Codec, Row, flaw

__all__ = ["LogitFile", "LogitWriter", "Row"]

VERSION = 1
COARSEST = (1 / 8, 1 / 4, 1 / 2)  # nats: the widest step of levels; the first that fits
FITS_BYTES = 92  # a token, for the first rows and their common ids; the whole file's budget is 100
LEARN_TOKENS = 8192  # held in memory (about 5 MB) before the first row is written
_START = struct.Struct("<8sII")
_END = struct.Struct("<QII8s")
_MAGIC, _LAST = b"wblogits", b"wblogend"


class LogitWriter:
    """Writes `path`.part, which becomes `path` on a clean exit; on an exception it is removed, on a kill it stays.

    Rows go to disk as they come, after the first LEARN_TOKENS tokens; names and lengths of rows stay in memory.
    """

    def __init__(
        self, path: Path, *, tokenizer: str, fingerprint: str, vocabulary: int, k: int = 50, teacher: str = ""
    ) -> None:
        """`fingerprint` is what a reader's must equal; `k` the most ids a token may keep. Raises OSError."""
        self.path, self.k, self.vocabulary = path, k, vocabulary
        self._part = path.with_name(f"{path.name}.part")
        self._lengths: dict[str, int] = {}
        self._first: list[tuple[str, Row]] | None = []  # until the common ids are learnt
        self._tokens = 0
        self._codec = Codec(np.zeros(0, np.int64), COARSEST[0], vocabulary)
        header = {
            "tokenizer": tokenizer,
            "fingerprint": fingerprint,
            "vocabulary": vocabulary,
            "k": k,
            "teacher": teacher,
        }
        text = json.dumps(header, ensure_ascii=False).encode()
        start = _START.pack(_MAGIC, VERSION, len(text)) + text
        self._handle = self._part.open("wb")
        self._handle.write(start + struct.pack("<I", zlib.crc32(start)))

    def add(self, name: str, row: Row) -> None:
        """Raises LogitError when the name was there before, or the row is not what `Row` says."""
        if name in self._lengths:
            raise LogitError(f"row {name} is already in {self.path.name}")
        wrong = flaw(row, self.k, self.vocabulary)
        if wrong:
            raise LogitError(f"row {name} for {self.path.name}: {wrong}")
        self._lengths[name] = 0
        self._tokens += len(row.tokens_T)
        if self._first is None:
            self._write(name, self._codec.encode(name, row))
            return
        self._first.append((name, Row(*(np.array(part) for part in row))))
        if self._tokens >= LEARN_TOKENS:
            self._learn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            kind = BaseException
            raise
        finally:
            self._handle.close()
            if kind is not None:
                self._part.unlink(missing_ok=True)
        if kind is None:
            self._part.replace(self.path)

    def _learn(self) -> None:
        """Common are the ids that two rows have; the more have them, the nearer to the front."""
        rows, self._first = self._first or [], None
        ids = [np.unique(row.ids_T_K) for _, row in rows]
        common, count = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]), return_counts=True)
        rank = np.where(count > 1, np.log2(count).astype(int), 0)
        common = common[np.lexsort((common, -rank))][: int((rank > 0).sum())]
        coded: list[bytes] = []
        for coarsest in COARSEST:
            self._codec = Codec(common, coarsest, self.vocabulary)
            coded = [self._codec.encode(name, row) for name, row in rows]
            if sum(map(len, coded)) + len(common) <= FITS_BYTES * self._tokens:
                break
        for (name, _), data in zip(rows, coded, strict=True):
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        self._handle.write(data)
        self._lengths[name] = len(data)

    def _finish(self) -> None:
        if self._first is not None:
            self._learn()
        about = {"coarsest": self._codec.coarsest, "tokens": self._tokens, "names": list(self._lengths)}
        text = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
        lengths = np.fromiter(self._lengths.values(), "<u4", len(self._lengths))
        steps = np.diff(self._codec.common_C, prepend=0).astype("<i4")
        planes = [np.ascontiguousarray(part.view(np.uint8).reshape(-1, 4).T).tobytes() for part in (lengths, steps)]
        index = zlib.compress(struct.pack("<II", len(text), len(lengths)) + text + b"".join(planes), 9)
        end = struct.pack("<QI", self._handle.tell(), len(index))
        self._handle.write(index + end + struct.pack("<I", zlib.crc32(index + end)) + _LAST)
        self._handle.flush()
        os.fsync(self._handle.fileno())


class LogitFile:
    """The rows of a file by name, read from a memory map: a row takes its own bytes and nothing else.

    Sound are header and index when it opens, a row when it is read, all rows after `check`.
    """

    def __init__(self, path: Path, *, tokenizer: str = "", fingerprint: str = "") -> None:
        """With `fingerprint` (without it, `tokenizer`): refuses a file of another tokenizer. Raises LogitError, also for
        what is no such file, is damaged or cut short, or of a newer version."""
        self.path = path
        try:
            with path.open("rb") as handle:
                self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file cannot be mapped
            raise LogitError(f"{path} is empty", "`workbench run TASK --force capture` writes it again") from error
        except OSError as error:
            raise LogitError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
        try:
            self._open(tokenizer, fingerprint)
        except BaseException:
            self.close()
            raise

    def _open(self, tokenizer: str, fingerprint: str) -> None:
        header, begin = self._header()
        self.tokenizer, self.fingerprint = str(header["tokenizer"]), str(header["fingerprint"])
        self.teacher, self.vocabulary, self.k = str(header["teacher"]), int(header["vocabulary"]), int(header["k"])
        ours, theirs = (fingerprint, self.fingerprint) if fingerprint else (tokenizer, self.tokenizer)
        if ours and ours != theirs:
            raise LogitError(
                f"{self.path} holds tokens of {self.tokenizer} (fingerprint {self.fingerprint[:16]}), and not of "
                f"{tokenizer or 'the student'} ({f'fingerprint {fingerprint[:16]}' if fingerprint else 'asked for'})",
                "train a student that has the teacher's tokenizer, or write the file with a teacher that has the student's",
            )
        about, lengths, common = self._index(begin)
        self.names: tuple[str, ...] = tuple(about["names"])
        self.tokens = int(about["tokens"])
        self.coarsest = float(about["coarsest"])  # nats: a log-probability is this near to what was added
        self._codec = Codec(common, self.coarsest, self.vocabulary)
        ends = begin + np.cumsum(lengths)
        self._places = dict(zip(self.names, zip((ends - lengths).tolist(), ends.tolist(), strict=True), strict=True))

    def _header(self) -> tuple[dict[str, Any], int]:
        """The header, and where the rows begin."""
        data = self._map
        if data[:8] != _MAGIC:
            raise LogitError(f"{self.path} is not a logit file, or its first bytes are damaged")
        size = _START.unpack_from(data)[2] if len(data) >= _START.size else len(data)
        end = _START.size + size
        if len(data) < end + 4 or zlib.crc32(data[:end]) != struct.unpack_from("<I", data, end)[0]:
            raise self._damaged("its header")
        version = _START.unpack_from(data)[1]
        if version > VERSION:
            raise LogitError(f"{self.path} is of version {version}, and this reads {VERSION}", "update the workbench")
        return json.loads(data[_START.size : end]), end + 4

    def _index(self, begin: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """What the index tells of the file, the rows' lengths in bytes, the common ids."""
        data = self._map
        at = len(data) - _END.size
        if at < begin or data[-8:] != _LAST:
            raise LogitError(
                f"{self.path} is cut short, or its last bytes are damaged",
                "`workbench run TASK --force capture` writes it again",
            )
        place, size, crc, _ = _END.unpack_from(data, at)
        if place < begin or place + size != at or zlib.crc32(data[place:-12]) != crc:
            raise self._damaged("its index")
        plain = zlib.decompress(data[place:at])
        text, rows = struct.unpack_from("<II", plain)
        middle = 8 + text + 4 * rows
        lengths, steps = (
            np.frombuffer(part, np.uint8).reshape(4, -1).T.copy().view("<i4").ravel().astype(np.int64)
            for part in (plain[8 + text : middle], plain[middle:])
        )
        if begin + int(lengths.sum()) != place:
            raise self._damaged("its index")
        return json.loads(plain[8 : 8 + text]), lengths, np.cumsum(steps)

    def _damaged(self, what: str) -> LogitError:
        return LogitError(
            f"{self.path} is damaged: {what} is not what was written",
            "`workbench run TASK --force capture` writes it again",
        )

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Row:
        """Raises LogitError naming the row when there is none of that name, or its bytes are damaged."""
        if name not in self._places:
            raise LogitError(f"{self.path} has no row {name}")
        begin, end = self._places[name]
        row = self._codec.decode(name, self._map[begin:end])
        if row is None:
            raise self._damaged(f"row {name}")
        return row

    def check(self) -> None:
        """Reads every row. Raises LogitError naming the first that is damaged."""
        for name in self.names:
            self[name]

    @property
    def bytes_a_token(self) -> float:
        """Of the whole file, header and index too; 0 without tokens."""
        return len(self._map) / self.tokens if self.tokens else 0.0

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
