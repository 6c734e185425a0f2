"""Near duplicates by MinHash over character 4-grams (datasketch): within the shard, and against dev and test (leakage)."""

from functools import lru_cache
from typing import Any

from workbench.outputs.base import fold

PERMUTATIONS = 64  # standard error of the similarity about 1 / sqrt(64) = 0.12; the bar is set with that in mind


class NearDuplicates:
    """A growing set of texts; `like` names one already in it that is at least `threshold` similar, or None.

    Of a text whose 4-grams are not in that share among those of all texts together, none can be: it is not looked for.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._index: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self._threshold = threshold
        self._names: set[str] = set()
        self._grams: set[str] = set()

    def like(self, text: str) -> str | None:
        grams = _grams(text)
        if len(grams & self._grams) < self._threshold * len(grams):
            return None
        found = self._index.query(_minhash(grams))
        return min(found) if found else None

    def add(self, name: str, text: str) -> None:
        if name not in self._names:
            grams = _grams(text)
            self._index.insert(name, _minhash(grams))
            self._names.add(name)
            self._grams |= grams


def _grams(text: str) -> set[str]:
    folded = f" {fold(text)} "
    return {folded[i : i + 4] for i in range(max(1, len(folded) - 3))}


def _minhash(grams: set[str]) -> Any:
    """Made in the same place each time: the index keeps its numbers, not itself."""
    made = _place()
    made.clear()
    made.update_batch(grams)
    return made


@lru_cache(maxsize=2**16)
def _hashed(gram: str) -> int:
    """A language has few different ones."""
    from datasketch.hashfunc import sha1_hash32

    return int(sha1_hash32(gram.encode()))


@lru_cache(maxsize=1)
def _place() -> Any:
    """To draw the permutations takes longer than to use them."""
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=_hashed)
