"""Ways of learning side by side: what the table says, and the walk on real models, as small as they come."""

import re
from pathlib import Path

import pytest
from small import TASK, here, write_task

from workbench import registry
from workbench.comparison import Standing, Trained, _as_long, _standing, _with, recommended, told
from workbench.config import load_config
from workbench.scoring import Score, permutation, plainly_better
from workbench.students.settings import DistilConfig


def trained(method: str, seed: int, dev: str, right: str, file: str = "Q8_0", size: int = 145_000_000) -> Trained:
    return Trained(
        method=method, seed=seed, dev=marks(dev), unquantized=50, file=file, size_bytes=size, rounds=1, steps=10, made=10,
        seconds=60.0, right=marks(right),
    )  # fmt: skip


def marks(text: str) -> tuple[bool, ...]:
    return tuple(mark == "x" for mark in text)


FOUND = [
    trained("sft", 0, "x-x-------", "xx--------"), trained("kd", 0, "xxxxxx----", "xxxxxxxx--"),
    trained("sft", 1, "xxxxx-----", "x-x-------"), trained("kd", 1, "xxxxx-----", "xxxxxxxxx-", "Q4_0", 92_000_000),
]  # fmt: skip


def test_a_method_stands_by_its_mean_over_seeds(tmp_path: Path) -> None:
    sft, kd = (_standing(FOUND, method, "sft") for method in ("sft", "kd"))
    assert (sft.dev_exact, sft.exact.value, sft.each, sft.difference, sft.against) == (35, 20, (20, 20), 0, 1)
    assert (round(kd.dev_exact, 9), kd.exact.value, kd.each, round(kd.difference, 9)) == (55, 85, (80, 90), 65)
    assert sft.dev == (1, 0.5, 1, 0.5, 0.5, 0, 0, 0, 0, 0)
    assert kd.against == permutation([1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0], [1, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]) < 0.02
    task = registry.load(str(write_task(tmp_path)))
    table = "\n".join(told(task, [sft, kd]))
    assert "| sft | Q8_0 | 145 | 35.0 | 50.0 | 20.0 (" in table
    assert "| kd | Q8_0, Q4_0 | 118 | 55.0 | 50.0 | 85.0 (" in table and "| 80.0, 90.0 | 1, 1 | +65.0 |" in table
    assert recommended([sft, kd]).startswith(
        "Take kd: 55.0 on dev in 118 MB. Against sft on test: +65.0 points; the paired test shows"
    )


@pytest.mark.parametrize(
    ("sft", "kd", "said"),
    [
        # nine rows gained and none lost are three standard errors, five and four less than one
        (("-" * 10, 92), ("x" * 9 + "-", 145), "Take kd: 90.0 on dev in 145 MB. Against sft on test: -1.0 points; the paired"),
        (("----xxxx--", 145), ("xxxxx-----", 145), "Take sft: 40.0 on dev in 145 MB. kd has 50.0 in 145 MB, which is not"),
        (("----xxxx--", 145), ("xxxxx-----", 92), "Take kd: 50.0 on dev in 92 MB. Against sft"),
        (("xxxxx-----", 145), ("----xxxx--", 92), "Take kd: 40.0 on dev in 92 MB. sft has 50.0 in 145 MB, which is not"),
        (("xxxxx-----", 92), ("----xxxx--", 92), "Take sft: 50.0 on dev in 92 MB."),
    ],
)  # fmt: skip
def test_of_methods_as_good_on_dev_the_smallest_file_is_taken(
    sft: tuple[str, int], kd: tuple[str, int], said: str
) -> None:
    def standing(method: str, dev: str, megabytes: int) -> Standing:
        return Standing(
            method=method, dev=tuple(map(float, marks(dev))), files=("Q8_0",), megabytes=megabytes, unquantized=50,
            exact=Score(50, 40, 60), each=(50.0,), rounds=(1,), difference=-1.0, against=0.3, steps=1, seconds=1,
        )  # fmt: skip

    told = recommended([standing("sft", *sft), standing("kd", *kd)])
    assert told.startswith(said) and ("Against sft" in told) == told.startswith("Take kd")
    assert ("does not show a difference (p = 0.300)" in told) == told.startswith("Take kd")


def test_plainly_better_is_more_than_one_standard_error() -> None:
    for gained, lost, plainly in (
        (1, 0, False),
        (2, 0, True),
        (3, 1, False),
        (4, 1, True),
        (0, 3, False),
        (0, 0, False),
    ):
        a, b = [True] * gained + [False] * lost, [False] * gained + [True] * lost
        assert plainly_better(a, b) == plainly, (gained, lost)
    assert plainly_better([1, 0.5, 0.5, 1], [0.5, 0, 0, 0.5]) and not plainly_better([0.5, 0.5], [0, 1])


def test_the_randomization_test() -> None:
    assert permutation([1, 0, 1], [1, 0, 1]) == 1.0
    assert permutation([1] * 4, [0] * 4) == pytest.approx(2 / 16, abs=0.02), "of 16 ways to flip, two are as far out"
    assert permutation([1, 0] * 20, [0, 1] * 20) == 1.0


def test_all_have_the_steps_of_the_first() -> None:
    timed = load_config(sets=("train.max_minutes=3",))
    assert _as_long(timed, None) is timed, "the first one's minutes say how many"
    counted = load_config(sets=("train.max_minutes=3", "train.max_steps=40"))
    for config, steps, made in ((timed, 25, 25), (counted, None, 40), (counted, 25, 40)):
        train = _as_long(config, steps).train
        assert (train.max_steps, train.max_minutes) == (made, None), "a slower way of learning is not cut short"


def test_what_one_method_needs_another_is_not_given() -> None:
    own = load_config(sets=("distil.method=dagger",))
    assert [_with(own, name, 0).rounds.count for name in ("dagger", "sft", "gkd")] == [2, 1, 2]
    assert _with(load_config(sets=("rounds.count=3",)), "sft", 1).rounds.count == 3
    helped = load_config(sets=("distil.method=kd", "distil.assistant=m"))
    assert [_with(helped, name, 0).distil.assistant for name in ("sft", "kd", "assistant")] == ["", "m", "m"]
    more = load_config(sets=("distil.attempts=9", "distil.fresh=0.5", "distil.k=7"))
    assert _with(more, "sft", 0).distil == DistilConfig(k=7), "what it does not look at trains nothing anew"
    assert _with(more, "dagger", 0).distil == DistilConfig(method="dagger", k=7, attempts=9, fresh=0.5)


def test_the_walk(smollm2_hf: Path, tiny: Path, tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "talk.py").write_text(TASK.replace(', "inverse")', ")"))
    settings = ("shots.mode=fixed", "select.recombine=12", "train.max_steps=2", "train.evals=1", "distil.k=8",
                "export.quants=['Q8_0']", "export.importance=false", "export.max_ratio=1", "student.max_tokens=8")  # fmt: skip
    arguments = [
        "compare", "talk.py", "--methods", "sft,kd", "--seeds", "1", "--teacher", f"hf:{smollm2_hf}", "--student", str(tiny),
        *(w for s in settings for w in ("--set", s)),
    ]  # fmt: skip
    done = here(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\| sft \| Q8_0 \| \d+ \| 0.0 \| 0.0 \| 0.0 \(", done.stdout) and "| kd | Q8_0 | " in done.stdout
    assert done.stdout.count("capture: runs") == 1 and done.stdout.count("train: runs") == 2
    assert done.stdout.count("select: runs") == 1, "the rows are the same"
    written = (tmp_path / "compare" / "talk.md").read_text()
    assert written.strip() in done.stdout and "Take sft" in written
    assert (tmp_path / "compare" / "talk.svg").read_text().startswith("<?xml")
    for name in ("sft-0", "kd-0"):
        bill = here(tmp_path, "audit", str(tmp_path / "compare" / "talk" / name))
        assert bill.returncode == 0 and "talk" in bill.stdout, "an expert that can be used"
    again = here(tmp_path, *arguments)
    assert "runs" not in again.stdout.replace("ways of learning", ""), "nothing is trained twice"

    remote = here(tmp_path, *arguments, "--set", "teacher.base_url=http://127.0.0.1:9/v1")
    assert remote.returncode == 1 and "does not tell what it thinks" in remote.stderr and "---" not in remote.stdout
    wrong = here(tmp_path, "compare", "talk.py", "--methods", "sft,magic")
    assert wrong.returncode != 0 and "there is no method 'magic'" in wrong.stderr
