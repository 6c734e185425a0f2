"""The file of a teacher's logits: what goes in comes out, within its error and its budget; damage is told, never read."""

import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import LogitError
from workbench.logit_codec import Codec
from workbench.logits import LEARN_TOKENS, LogitFile, LogitWriter, Row

V = 151_936
PRINT = "ab" * 32
TOUCHED = 12_000  # ids of the vocabulary that a task's rows hold


def write(path: Path, rows: dict[str, Row], k: int = 50, vocabulary: int = V) -> Path:
    with LogitWriter(path, tokenizer="qwen", fingerprint=PRINT, vocabulary=vocabulary, k=k, teacher="big") as writer:
        for name, row in rows.items():
            writer.add(name, row)
    return path


def row_of(tokens: Sequence[int], ids: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> Row:
    return Row(np.array(tokens, np.int32), np.array(ids, np.int32), np.array(logprobs, np.float32))


def drawn(seed: int, T: int, K: int = 50, vocabulary: int = V) -> Row:
    """A row as a teacher gives it: ids by Zipf's law, some of them the row's own; peaked tokens and flat ones.

    Harder than SmolLM2 on phone_actions: 680 different ids in a row of 27 tokens against 640, 9,200 in 60 rows against 7,000,
    and the 50 of a token cost 81 bytes alone, as its would with ids spread over this vocabulary.
    """
    random = np.random.default_rng(seed)
    names = np.random.default_rng(7).permutation(vocabulary)

    def zipf(size: tuple[int, ...]) -> np.ndarray:
        return names[(TOUCHED ** random.random(size)).astype(int) % vocabulary]

    pool = zipf((8 * K,))
    ids = np.empty((T, K), np.int32)
    for t in range(T):
        seen = dict.fromkeys(np.concatenate([random.choice(pool, K // 2), zipf((K * 6,))]).tolist())
        while len(seen) < K:
            seen.update(dict.fromkeys(random.integers(0, vocabulary, K).tolist()))
        ids[t] = random.permutation(np.array(list(seen)[:K]))
    first = random.choice([6.0, 3.0, 0.3], (T, 1), p=[0.5, 0.3, 0.2]) * random.random((T, 1))
    below = first + 1.6 * np.log(np.arange(1, K + 1)) + np.abs(0.3 * random.standard_normal((T, K)))
    below = np.sort(np.concatenate([np.zeros((T, 1)), below[:, : K - 1]], axis=1), axis=1)
    mass = np.exp(-below).sum(axis=1, keepdims=True) * (1 + 0.2 * random.random((T, 1)) * np.exp(-first))
    own = np.where(random.random(T) < 0.9, ids[:, 0], zipf((T,)))
    return Row(own.astype(np.int32), ids, (-below - np.log(mass)).astype(np.float32))


def same(file: LogitFile, name: str, given: Row) -> Row:
    """Exact ids and tokens, log-probabilities within the file's step, descending, and no more than one in all."""
    read = file[name]
    assert (read.tokens_T.dtype, read.ids_T_K.dtype, read.logprobs_T_K.dtype) == (np.int32, np.int32, np.float32)
    assert np.array_equal(read.tokens_T, given.tokens_T)
    assert np.array_equal(np.sort(read.ids_T_K, axis=1), np.sort(given.ids_T_K, axis=1))
    assert np.array_equal(read.ids_T_K[:, 0], given.ids_T_K[:, 0]), "the likeliest stays first"
    assert (read.logprobs_T_K[:, :-1] >= read.logprobs_T_K[:, 1:]).all()
    assert np.exp(read.logprobs_T_K.astype(np.float64)).sum(axis=1).max() <= 1 + 1e-6
    before, after = (
        np.take_along_axis(row.logprobs_T_K.astype(np.float64), np.argsort(row.ids_T_K, axis=1), axis=1)
        for row in (given, read)
    )
    assert np.array_equal(np.isneginf(before), np.isneginf(after))
    near = before > before.max(axis=1, keepdims=True) - 128
    assert np.abs(after[near] - before[near]).max() <= file.coarsest
    assert np.abs(np.exp(after) - np.exp(before)).max() <= 1 / 64
    return read


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {f"row {n}": drawn(n, T=10 + n) for n in range(8)}


@pytest.fixture
def path(tmp_path: Path, rows: dict[str, Row]) -> Path:
    return write(tmp_path / "a.logits", rows)


def test_what_goes_in_comes_out(path: Path, rows: dict[str, Row]) -> None:
    with LogitFile(path, tokenizer="qwen", fingerprint=PRINT) as file:
        assert (len(file), file.names, list(file)) == (8, tuple(rows), list(rows))
        assert (file.tokenizer, file.fingerprint, file.teacher) == ("qwen", PRINT, "big")
        assert (file.vocabulary, file.k) == (V, 50)
        assert file.tokens == sum(len(row.tokens_T) for row in rows.values())
        assert file.bytes_a_token == path.stat().st_size / file.tokens
        assert "row 3" in file and "row 9" not in file
        for name in reversed(rows):
            same(file, name, rows[name])
        file.check()
    assert [p.name for p in path.parent.iterdir()] == ["a.logits"]


@pytest.mark.parametrize(
    "row",
    [
        row_of([5], [[5, 9, 0]], [[-0.1, -3.0, -4.0]]),
        row_of([5], [[5]], [[-0.5]]),
        row_of([7], [[5]], [[-4.0]]),  # its own token is not kept, and the tail is most of it
        row_of([V - 1], [[V - 1, 0]], [[0.0, -np.inf]]),
        row_of([0, 1], [[2, 3], [3, 2]], [[-0.7, -0.7], [-0.6931, -0.6932]]),
        row_of([1], [[1, 2, 3, 4]], [[-1e-9, -30.0, -30.0, -30.0]]),
        row_of([1], [[1, 2, 3, 4]], [[-0.01, -90.0, -400.0, -np.inf]]),
        row_of([4] * 9, [[4, *range(100, 3000, 60)]] * 9, [[-0.2, *[-np.inf] * 49]] * 9),
        row_of([4], [[4, *range(100, 3000, 60)]], [[-np.log(V)] * 50]),
        row_of([4], [[4, *range(100, 3000, 60)]], [[-np.log(50)] * 50]),
    ],
)
def test_rows_at_the_edge(tmp_path: Path, row: Row) -> None:
    with LogitFile(write(tmp_path / "a", {"a": row})) as file:
        read = same(file, "a", row)
        assert np.exp(read.logprobs_T_K[:, 0]) == pytest.approx(np.exp(row.logprobs_T_K[:, 0]), rel=0.04)
        if row.logprobs_T_K[0, 0] == np.float32(-1e-9):
            assert read.logprobs_T_K[0, 0] == pytest.approx(-1e-9, rel=0.01)


def test_the_bytes_of_a_row_are_frozen() -> None:
    """Other bytes for the same row need another VERSION, or files that people have are misread."""
    row = row_of([5, 70], [[5, 9, 31], [9, 70, 5]], [[-0.25, -2.0, -7.5], [-1.0, -1.0, -np.inf]])
    codec = Codec(np.array([9, 5]), 1 / 8, 100)
    data = codec.encode("a", row)
    assert (
        data.hex()
        == "076fc8730200000002000000020000000000000005000000030000040800006cc04bb50509d30dfa9990f6551c7d401c0006c0"
    )
    assert codec.decode("a", data) is not None
    assert codec.decode("b", data) is None, "the bytes of another row"


def test_fewer_ids_than_k_in_some_rows(tmp_path: Path) -> None:
    rows = {"five": drawn(1, 6, K=5), "all": drawn(2, 6), "one": drawn(3, 6, K=1), "twenty": drawn(4, 1, K=20)}
    with LogitFile(write(tmp_path / "a", rows)) as file:
        for name, row in rows.items():
            same(file, name, row)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    vocabulary = 40
    T, K = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    ids = [draw(st.permutations(range(vocabulary)))[:K] for _ in range(T)]
    tokens = draw(st.lists(st.integers(0, vocabulary - 1), min_size=T, max_size=T))
    weights = st.lists(st.floats(0, 60) | st.just(np.inf), min_size=K, max_size=K)
    below = np.sort(np.array([draw(weights) for _ in range(T)]), axis=1)
    below[:, 0] = 0
    tail = np.array([[draw(st.floats(0, 50))] for _ in range(T)])
    logprobs = -below - np.log(np.exp(-below).sum(axis=1, keepdims=True) + tail)
    return row_of(tokens, ids, logprobs.tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(any_row(), min_size=1, max_size=4))
def test_any_row_comes_back(tmp_path_factory: pytest.TempPathFactory, all_: list[Row]) -> None:
    given_rows = {f"größe {n}": row for n, row in enumerate(all_)}
    path = write(tmp_path_factory.mktemp("any") / "a", given_rows, k=8, vocabulary=40)
    with LogitFile(path) as file:
        for name, row in given_rows.items():
            same(file, name, row)


def test_the_budget_at_a_vocabulary_of_151_936(tmp_path: Path) -> None:
    """60 rows, and more than are learnt from."""
    rows = {f"{n:064x}": drawn(n, T=27) for n in range(60)}
    with LogitFile(write(tmp_path / "a", rows)) as file:
        assert file.bytes_a_token <= 100
        assert file.coarsest <= 1 / 4
        started = perf_counter()
        for name in file.names:
            file[name]
        assert (perf_counter() - started) / len(rows) < 0.02, "far above the 0.3 ms it takes, for a busy machine"
    some = list(rows.values())
    many = {f"{n:064x}": some[n % 60] for n in range(LEARN_TOKENS // 27 + 40)}
    with LogitFile(write(tmp_path / "b", many)) as file:
        assert file.bytes_a_token <= 100
        same(file, file.names[-1], many[file.names[-1]])


def test_where_ids_cost_too_much_the_levels_get_wider(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = {}
    for n in range(60):
        row = drawn(n, T=2)
        rows[str(n)] = row._replace(ids_T_K=np.array([random.permutation(V)[:50] for _ in range(2)], np.int32))
    with LogitFile(write(tmp_path / "a", rows)) as file:
        assert file.coarsest > 1 / 8
        for name, row in rows.items():
            same(file, name, row)


def test_the_levels_lose_next_to_nothing(path: Path, rows: dict[str, Row]) -> None:
    """KL(given || read) over the kept ids and the tail, in nats."""
    with LogitFile(path) as file:
        lost = []
        for name, row in rows.items():
            p, q = (
                np.take_along_axis(np.exp(r.logprobs_T_K.astype(np.float64)), np.argsort(r.ids_T_K, axis=1), axis=1)
                for r in (row, file[name])
            )
            p, q = (np.concatenate([x, np.maximum(1 - x.sum(axis=1, keepdims=True), 1e-12)], axis=1) for x in (p, q))
            lost.append((p * np.log(p / q)).sum(axis=1))
        assert 0 <= np.concatenate(lost).mean() < 5e-4


def test_logits_in_bf16_come_back_as_they_were(tmp_path: Path) -> None:
    """Far from the likeliest, where they lie on eighths; beside it the levels are finer."""
    below = np.array([[0, 5, 5.125, 6.25, 9.875, 30]])
    logprobs = -below - np.log(np.exp(-below).sum() + 0.01)
    row = row_of([1], [[1, 2, 3, 4, 5, 6]], logprobs.tolist())
    with LogitFile(write(tmp_path / "a", {"a": row})) as file:
        read = file["a"].logprobs_T_K
        assert read[:, :1] - read == pytest.approx(below, abs=1e-5)


def test_a_flipped_byte_anywhere_is_told(tmp_path: Path) -> None:
    rows = {f"row {n}": drawn(n, T=2, K=4) for n in range(2)}
    path = write(tmp_path / "a", rows, k=4)
    sound = path.read_bytes()
    with LogitFile(path) as file:
        places = dict(file._places)
        good = {name: file[name] for name in rows}
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        inside = [name for name, (begin, end) in places.items() if begin <= at < end]
        if not inside:
            with pytest.raises(LogitError, match=r"damaged|not a logit file"):
                LogitFile(path)
            continue
        with LogitFile(path) as file:
            with pytest.raises(LogitError, match=f"{inside[0]} is not what was written"):
                file[inside[0]]
            with pytest.raises(LogitError, match=inside[0]):
                file.check()
            for name in {*rows} - {*inside}:
                assert np.array_equal(file[name].logprobs_T_K, good[name].logprobs_T_K)


def test_a_file_cut_short_is_told(path: Path) -> None:
    sound = path.read_bytes()
    for size in [0, 1, 7, 8, 15, 16, 40, len(sound) // 2, *range(len(sound) - 40, len(sound))]:
        path.write_bytes(sound[:size])
        with pytest.raises(LogitError, match=r"empty|damaged|not a logit file"):
            LogitFile(path)
    path.write_bytes(sound[:500] + sound[501:])
    with pytest.raises(LogitError, match="damaged"):
        LogitFile(path)


def test_what_is_no_logit_file(tmp_path: Path) -> None:
    with pytest.raises(LogitError, match="cannot read"):
        LogitFile(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LogitError, match="is not a logit file"):
        LogitFile(tmp_path / "other")


def test_a_newer_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 8, 2)
    end = 16 + struct.unpack_from("<I", data, 12)[0]
    struct.pack_into("<I", data, end, zlib.crc32(data[:end]))
    path.write_bytes(data)
    with pytest.raises(LogitError, match="version 2, and this reads 1") as raised:
        LogitFile(path)
    assert "update" in raised.value.hint


def test_another_tokenizer(path: Path) -> None:
    with pytest.raises(LogitError, match=r"tokens of qwen \(fingerprint abab.*not of smollm2 \(fingerprint cdcd"):
        LogitFile(path, tokenizer="smollm2", fingerprint="cd" * 32)
    with pytest.raises(LogitError, match=r"tokens of qwen .*not of smollm2"):
        LogitFile(path, tokenizer="smollm2")
    LogitFile(path, tokenizer="the same under another name", fingerprint=PRINT).close()


def test_a_row_that_is_not_there(path: Path) -> None:
    with LogitFile(path) as file, pytest.raises(LogitError, match="has no row none"):
        file["none"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (row_of([1, 2], [[1]], [[-1.0]]), "shapes"),
        (row_of([1], [[1, 2]], [[-1.0]]), "shapes"),
        (Row(np.zeros(0, np.int32), np.zeros((0, 2), np.int32), np.zeros((0, 2), np.float32)), "0 tokens"),
        (row_of([1], [list(range(51))], [[-9.0] * 51]), "51 ids"),
        (row_of([1], [[1, V]], [[-1.0, -2.0]]), "vocabulary"),
        (row_of([-100], [[1, 2]], [[-1.0, -2.0]]), "vocabulary"),
        (row_of([1], [[1, 1]], [[-1.0, -2.0]]), "twice"),
        (row_of([1], [[1, 2]], [[-1.0, np.nan]]), "not a number"),
        (row_of([1], [[1, 2]], [[-np.inf, -np.inf]]), "impossible"),
        (row_of([1], [[1, 2]], [[-2.0, -1.0]]), "descend"),
        (row_of([1], [[1, 2]], [[-0.1, -0.1]]), "sum to 1.81"),
    ],
)
def test_a_row_that_cannot_be_told_is_refused(tmp_path: Path, row: Row, told: str) -> None:
    with pytest.raises(LogitError, match=f"row a .*{told}"):
        write(tmp_path / "a", {"a": row})
    assert not [*tmp_path.iterdir()], "nothing is left of a writer that failed"


def test_a_name_twice(tmp_path: Path) -> None:
    with LogitWriter(tmp_path / "a", tokenizer="", fingerprint="", vocabulary=V) as writer:
        writer.add("a", drawn(1, 2))
        with pytest.raises(LogitError, match="row a is already in a"):
            writer.add("a", drawn(1, 2))


def test_no_rows(tmp_path: Path) -> None:
    with LogitFile(write(tmp_path / "a", {})) as file:
        file.check()
        assert (len(file), file.tokens, file.bytes_a_token) == (0, 0, 0.0)


def test_a_row_that_was_given_may_be_changed_afterwards(tmp_path: Path) -> None:
    row = drawn(1, 3)
    kept = Row(*(part.copy() for part in row))
    with LogitWriter(tmp_path / "a", tokenizer="", fingerprint="", vocabulary=V) as writer:
        writer.add("a", row)
        for part in row:
            part[:] = 0
    with LogitFile(tmp_path / "a") as file:
        same(file, "a", kept)


def test_a_killed_writer_leaves_no_file(tmp_path: Path) -> None:
    """It is killed with more rows than it keeps in memory: those are in .part already."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.test_logits import drawn, V; from workbench.logits import *\n"
        "with LogitWriter(Path(sys.argv[1]), tokenizer='', fingerprint='', vocabulary=V) as writer:\n"
        "    row = drawn(1, 500)\n"
        "    for n in range(30): writer.add(str(n), row)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    here = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    ended = subprocess.run(command, cwd=here, env={**os.environ, "PYTHONPATH": str(here)}, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["a.part"]
    assert (tmp_path / "a.part").stat().st_size > 20 * 500 * 50, "rows go to the disk as they come"
    with pytest.raises(LogitError, match="cut short"):
        LogitFile(tmp_path / "a.part")
    write(tmp_path / "a", {"a": drawn(1, 3)})
    assert [p.name for p in tmp_path.iterdir()] == ["a"], "the next writer begins anew"
