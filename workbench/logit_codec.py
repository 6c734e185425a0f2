"""One row of a logit file as bytes and back: all of it in a few Rice codes, so that numpy reads it without a loop over symbols.

    u32 crc, counts, 5 parameters | T tails (float16) | T pairs of parameters | unary parts | low bits

A Rice code of n with parameter b is n >> b in unary and the b lowest bits of n; the parameters are those that make it shortest.
Told are, in this order: the row's ids once (places in the list of common ids, then ids that are not common), the lowest
level of each token, the rank of the teacher's own token among the kept, own tokens that are not kept, the sets of kept ids as
places among the row's, their levels counted from the lowest. What ascends is told as the gaps in it.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

FINEST = 1 / 32  # nats: the step of levels beside the likeliest; a change of it makes a new version
REACH = 128.0  # nats below the likeliest; so does this
_HEAD = struct.Struct("<IIIIIIH5B")
_MOST_BITS = 15


class Row(NamedTuple):
    """One completion of a teacher, T tokens long; what is missing of the sum of exp(logprobs) is the tail's."""

    tokens_T: np.ndarray  # int32, the teacher's own tokens
    ids_T_K: np.ndarray  # int32, the kept tokens, likeliest first
    logprobs_T_K: np.ndarray  # float32, natural, at temperature 1, descending


class Codec:
    """`common_C` are the ids that are told by their place in it; `coarsest` is the widest step of levels, in nats."""

    def __init__(self, common_C: np.ndarray, coarsest: float, vocabulary: int) -> None:
        self.common_C, self.coarsest, self._vocabulary = common_C, coarsest, vocabulary
        self._place_V: np.ndarray | None = None
        below = [0.0]
        while below[-1] < REACH:
            step = FINEST * float(np.exp(below[-1] / 2))
            # multiples of the coarsest: logits in bf16 lie on 1/8 themselves, and come back as they were
            below.append(below[-1] + step if step < coarsest else (below[-1] // coarsest + 1) * coarsest)
        self._below_L = np.array([*below, np.inf])  # nats below the likeliest
        self._between_L = (self._below_L[1:-1] + self._below_L[:-2]) / 2

    def encode(self, name: str, row: Row) -> bytes:
        """`row` is one in which `flaw` finds nothing; `name` goes into the checksum."""
        T, K = row.ids_T_K.shape
        levels_T_K, tails_T = self._levels(row.logprobs_T_K.astype(np.float64))
        ids_U, commons, places = self._dictionary(row)
        own_T, places_T_K = places[:T], places[T:].reshape(T, K)
        order_T_K = np.argsort(places_T_K, axis=1)
        places_T_K = np.take_along_axis(places_T_K, order_T_K, axis=1)
        levels_T_K = np.take_along_axis(levels_T_K, order_T_K, axis=1)
        ranked_T_K = np.take_along_axis(places_T_K, np.argsort(levels_T_K, axis=1, kind="stable"), axis=1)
        kept_T_K = ranked_T_K == own_T[:, None]
        rank_T = np.where(kept_T_K.any(axis=1), kept_T_K.argmax(axis=1), K)
        lowest_T = levels_T_K.max(axis=1)
        tables = [_gaps(places_T_K), lowest_T[:, None] - levels_T_K]
        lists = [_gaps(self._places(ids_U[:commons])), _gaps(ids_U[commons:]), lowest_T, rank_T, own_T[rank_T == K]]
        bits_tables = [_bits(table) for table in tables]
        bits_lists = [int(_bits(values[None])[0]) for values in lists]
        lengths = [len(values) for values in lists]
        values_N = np.concatenate([*lists, *(table.ravel() for table in tables)])
        bits_N = np.concatenate([np.repeat(bits_lists, lengths), *(np.repeat(bits, K) for bits in bits_tables)])
        unary = _unary(values_N >> bits_N)
        head = _HEAD.pack(0, T, *lengths[:2], lengths[4], len(unary), K, *bits_lists)[4:]
        pairs = (bits_tables[0] << 4 | bits_tables[1]).astype(np.uint8)
        body = b"".join((head, tails_T.astype("<f2").tobytes(), pairs.tobytes(), unary, _low(values_N, bits_N)))
        return struct.pack("<I", zlib.crc32(body, zlib.crc32(name.encode()))) + body

    def decode(self, name: str, data: bytes) -> Row | None:
        """What `encode` was given, within the format's error; None when a byte of it, or the name, is another."""
        if len(data) < _HEAD.size or zlib.crc32(data[4:], zlib.crc32(name.encode())) != _HEAD.unpack_from(data)[0]:
            return None
        _, T, commons, others, strangers, size, K, *bits_lists = _HEAD.unpack_from(data)
        at = _HEAD.size
        tails_T = np.frombuffer(data, "<f2", T, at).astype(np.float64)
        pairs_T = np.frombuffer(data, np.uint8, T, at + 2 * T).astype(np.int64)
        at += 3 * T
        lengths = [commons, others, T, T, strangers]
        bits_N = np.concatenate(
            [np.repeat(np.array(bits_lists, np.int64), lengths), np.repeat(pairs_T >> 4, K), np.repeat(pairs_T & 15, K)]
        )
        stops_N = np.flatnonzero(np.unpackbits(np.frombuffer(data, np.uint8, size, at)))
        values_N = (np.diff(stops_N, prepend=-1) - 1 << bits_N) | _low_back(data[at + size :], bits_N)
        parts = np.split(values_N, np.cumsum([*lengths, T * K]))
        common, other, lowest_T, rank_T, strange, places, levels = parts
        ids_U = np.concatenate([self.common_C[np.cumsum(common + 1) - 1], np.cumsum(other + 1) - 1])
        ids_T_K = ids_U[np.cumsum(places.reshape(T, K) + 1, axis=1) - 1]
        levels_T_K = lowest_T[:, None] - levels.reshape(T, K)
        order_T_K = np.argsort(levels_T_K, axis=1, kind="stable")
        ids_T_K = np.take_along_axis(ids_T_K, order_T_K, axis=1)
        below_T_K = self._below_L[np.take_along_axis(levels_T_K, order_T_K, axis=1)]
        rest_T = np.exp(-below_T_K[:, 1:]).sum(axis=1) + np.exp(tails_T)
        tokens_T = ids_T_K[np.arange(T), np.minimum(rank_T, K - 1)]
        tokens_T[rank_T == K] = ids_U[strange]
        logprobs_T_K = -below_T_K - np.log1p(rest_T)[:, None]
        return Row(tokens_T.astype(np.int32), ids_T_K.astype(np.int32), logprobs_T_K.astype(np.float32))

    def _levels(self, logprobs_T_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The level of each (the likeliest alone has 0, -inf the last), and log(tail / likeliest)."""
        top_T = logprobs_T_K[:, 0]
        levels_T_K = np.searchsorted(self._between_L, top_T[:, None] - logprobs_T_K)
        levels_T_K[np.isneginf(logprobs_T_K)] = len(self._below_L) - 1
        levels_T_K[:, 1:] = np.maximum(levels_T_K[:, 1:], 1)
        tail_T = np.maximum(-np.expm1(top_T) - np.exp(logprobs_T_K[:, 1:]).sum(axis=1), 0)
        with np.errstate(divide="ignore"):
            return levels_T_K, np.log(tail_T) - top_T

    def _dictionary(self, row: Row) -> tuple[np.ndarray, int, np.ndarray]:
        """The row's ids, common ones first; how many those are; the place among them of each own and then each kept token."""
        ids_U, inverse = np.unique(
            np.concatenate([row.tokens_T, row.ids_T_K.ravel()]).astype(np.int64), return_inverse=True
        )
        places_U = self._places(ids_U)
        order_U = np.argsort(np.where(places_U < 0, len(self.common_C) + ids_U, places_U))
        return ids_U[order_U], int((places_U >= 0).sum()), np.argsort(order_U)[inverse]

    def _places(self, ids: np.ndarray) -> np.ndarray:
        """Where they are in the list of common ids; -1 for those that are not."""
        if self._place_V is None:
            self._place_V = np.full(self._vocabulary, -1)
            self._place_V[self.common_C] = np.arange(len(self.common_C))
        found: np.ndarray = self._place_V[ids]
        return found


def flaw(row: Row, k: int, vocabulary: int) -> str:
    """What keeps a row out of a file of at most `k` ids a token; empty where nothing does."""
    ids_T_K, logprobs_T_K = row.ids_T_K, row.logprobs_T_K
    if ids_T_K.ndim != 2 or ids_T_K.shape != logprobs_T_K.shape or row.tokens_T.shape != ids_T_K.shape[:1]:
        return f"shapes {row.tokens_T.shape}, {ids_T_K.shape} and {logprobs_T_K.shape} are not (T,), (T, K) and (T, K)"
    if not len(ids_T_K) or not 1 <= ids_T_K.shape[1] <= k:
        return f"it has {len(ids_T_K)} tokens and {ids_T_K.shape[1]} ids each: at least one, and at most {k} ids"
    if min(ids_T_K.min(), row.tokens_T.min()) < 0 or max(ids_T_K.max(), row.tokens_T.max()) >= vocabulary:
        return f"an id is outside of the vocabulary of {vocabulary}"
    if (np.diff(np.sort(ids_T_K, axis=1), axis=1) == 0).any():
        return "a token has the same id twice"
    if np.isnan(logprobs_T_K).any() or np.isneginf(logprobs_T_K[:, 0]).any():
        return "a log-probability is not a number, or the likeliest is impossible"
    if (logprobs_T_K[:, 1:] > logprobs_T_K[:, :-1]).any():
        return "the log-probabilities do not descend"
    most = float(np.exp(logprobs_T_K.astype(np.float64)).sum(axis=1).max())
    return f"the probabilities of a token sum to {most:.4g}" if most > 1.01 else ""


def _gaps(ascending: np.ndarray) -> np.ndarray:
    gaps: np.ndarray = np.diff(ascending, axis=-1, prepend=-1) - 1
    return gaps


def _bits(values_R_N: np.ndarray) -> np.ndarray:
    """How many low bits make a Rice code of each line shortest."""
    costs = [(values_R_N >> bits).sum(axis=1) + bits * values_R_N.shape[1] for bits in range(_MOST_BITS + 1)]
    best_R: np.ndarray = np.argmin(costs, axis=0)
    return best_R


def _unary(values_N: np.ndarray) -> bytes:
    """For each value that many zeros and a one."""
    stops_N = np.cumsum(values_N + 1) - 1
    stream = np.zeros(int(stops_N[-1]) + 1, np.uint8)
    stream[stops_N] = 1
    return np.packbits(stream).tobytes()


def _low(values_N: np.ndarray, bits_N: np.ndarray) -> bytes:
    """The lowest `bits` of each value, one behind the other, high to low."""
    ends_N = np.cumsum(bits_N)
    stream = np.zeros(int(ends_N[-1]), np.uint8)
    for bit in range(_MOST_BITS):
        here = bits_N > bit
        stream[ends_N[here] - 1 - bit] = values_N[here] >> bit & 1
    return np.packbits(stream).tobytes()


def _low_back(data: bytes, bits_N: np.ndarray) -> np.ndarray:
    """Each is cut out of the three bytes from its first bit on: 7 and 15 bits fit."""
    padded = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.int64)
    three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    ends_N = np.cumsum(bits_N)
    starts_N = ends_N - bits_N
    window_N = three[starts_N >> 3]
    low_N: np.ndarray = window_N >> 24 - (starts_N & 7) - bits_N & (1 << bits_N) - 1
    return low_N
