"""What a GGUF thinks of texts that somebody wrote: their tokens read through llama.cpp, many texts in one pass.

What texts begin with alike is read once and copied to each (`llama_memory_seq_cp`, which copies no numbers: one cache for all
sequences). The library runs in a child process; what it finds comes through a pipe, text by text.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, NamedTuple

from workbench.edge import child
from workbench.errors import EdgeError
from workbench.machine import cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD = struct.Struct("<iii")  # place, tokens of the completion, k
TOKENS = 512  # of texts' own, in a pass; a longer text has one for itself
OUTPUTS = 256  # places of a pass that all tokens' logits are kept for
SEQUENCES = 64  # texts in a pass


class Line(NamedTuple):
    """A text in tokens, the last `written` ones the completion's; the first `shared` ones may be other lines' too."""

    ids: Sequence[int]
    written: int
    shared: int = 0


class Scored(NamedTuple):
    """Of the line at `place`, at each of the C tokens of its completion, the K likeliest, the likeliest first, with their
    log-probabilities at temperature 1 (C, K)."""

    place: int
    ids_C_K: "NDArray[np.int32]"
    logprobs_C_K: "NDArray[np.float32]"


def scored(gguf: Path, lines: Sequence[Line], k: int, *, threads: int = 0) -> Iterator[Scored]:
    """Each line once, in no order. `threads`: 0 is one a core. Raises EdgeError."""
    import numpy as np

    for place, line in enumerate(lines):
        if not 0 < line.written < len(line.ids) - line.shared:
            raise EdgeError(f"line {place} has no token of its own before what was written", "share fewer")
    with TemporaryDirectory(prefix="workbench-scoring-") as folder:
        given, log = Path(folder) / "lines.json", Path(folder) / "log"
        given.write_text(json.dumps(lines), encoding="utf-8")
        with log.open("wb") as sink:
            process = child.spawn(
                __name__, [str(gguf), str(given), str(k), str(threads or cores())], log=sink, stdout=subprocess.PIPE
            )
        assert process.stdin is not None and process.stdout is not None, "they are pipes"
        try:
            for _ in lines:
                head = process.stdout.read(HEAD.size)
                place, places, wide = HEAD.unpack(head) if len(head) == HEAD.size else (-1, 0, 0)
                size = 4 * places * wide
                body = process.stdout.read(2 * size)
                if place < 0 or len(body) < 2 * size:
                    raise EdgeError(
                        f"llama.cpp read no further in {gguf.name} ({child.ending(process.wait())}); its log ends with:\n"
                        f"{child.tail(log)}",
                        "is there memory for it? --set teacher.engine=torch has torch read",
                    )
                shape = (places, wide)
                yield Scored(
                    place,
                    np.frombuffer(body[:size], dtype="<i4").reshape(shape).astype(np.int32),
                    np.frombuffer(body[size:], dtype="<f4").reshape(shape).astype(np.float32),
                )
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


def main() -> None:
    """In the child: a frame a line on standard output."""
    child.settle()
    gguf, given, k, threads = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    lines = [Line(*each) for each in json.loads(given.read_text(encoding="utf-8"))]
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what the library prints is no frame
        try:
            _score(gguf, lines, k, threads, out)
        except EdgeError as error:
            sys.exit(f"{error}: {error.hint}")


def _score(gguf: Path, lines: Sequence[Line], k: int, threads: int, out: IO[bytes]) -> None:
    from workbench.edge.llama_api import Reader

    order = sorted(
        range(len(lines)), key=lambda place: (lines[place].ids[: lines[place].shared], len(lines[place].ids))
    )
    own = max(len(line.ids) - line.shared for line in lines)
    reader = Reader(
        gguf,
        context=max(line.shared for line in lines) + max(TOKENS, own),
        tokens=max(TOKENS, own),
        sequences=SEQUENCES + 1,
        threads=threads,
    )
    for part in _parts(lines, order):
        reader.keep(lines[part[0]].ids[: lines[part[0]].shared])
        for place, (ids_C_K, logprobs_C_K) in zip(part, reader.read([lines[place] for place in part], k), strict=True):
            out.write(HEAD.pack(place, *ids_C_K.shape) + ids_C_K.tobytes() + logprobs_C_K.tobytes())
        out.flush()


def _parts(lines: Sequence[Line], order: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours that begin with the same shared tokens, as many as a pass has room for; one at least."""
    part: list[int] = []
    tokens = outputs = 0
    for place in order:
        line = lines[place]
        own = len(line.ids) - line.shared
        fits = tokens + own <= TOKENS and outputs + line.written <= OUTPUTS and len(part) < SEQUENCES
        if part and not (fits and line.ids[: line.shared] == lines[part[0]].ids[: lines[part[0]].shared]):
            yield part
            part, tokens, outputs = [], 0, 0
        part.append(place)
        tokens, outputs = tokens + own, outputs + line.written
    if part:
        yield part


if __name__ == "__main__":
    main()
