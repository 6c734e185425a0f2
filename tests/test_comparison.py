"""Ways of learning side by side: what the table says, and the walk on real models, as small as they come."""

from pathlib import Path

import pytest
from small import TASK, here, write_task

from workbench import registry
from workbench.comparison import Standing, Trained, _as_long, _standing, recommended, told
from workbench.config import load_config
from workbench.scoring import Score, permutation


def trained(method: str, seed: int, dev: float, right: str) -> Trained:
    return Trained(
        method=method, seed=seed, dev=dev, unquantized=dev, file="Q8_0", rounds=1, steps=10, made=10, seconds=60.0,
        right=tuple(mark == "x" for mark in right),
    )  # fmt: skip


FOUND = [
    trained("sft", 0, 40, "xx--------"), trained("kd", 0, 60, "xxxxxxxx--"),
    trained("sft", 1, 50, "x-x-------"), trained("kd", 1, 50, "xxxxxxxxx-"),
]  # fmt: skip


def test_a_method_stands_by_its_mean_over_seeds(tmp_path: Path) -> None:
    sft, kd = (_standing(FOUND, method, "sft") for method in ("sft", "kd"))
    assert (sft.dev, sft.exact.value, sft.each, sft.difference, sft.against) == (45, 20, (20, 20), 0, 1)
    assert (kd.dev, kd.exact.value, kd.each, round(kd.difference, 9)) == (55, 85, (80, 90), 65)
    assert kd.against == permutation([1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0], [1, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0]) < 0.02
    task = registry.load(str(write_task(tmp_path)))
    table = "\n".join(told(task, [sft, kd]))
    assert "| kd | 55.0 | 55.0 | 85.0 (" in table and "| 80.0, 90.0 | 1, 1 | +65.0 |" in table
    assert recommended([sft, kd]).startswith("Take kd: 55.0 on dev, sft 45.0.")
    assert "shows it" in recommended([sft, kd])


@pytest.mark.parametrize(
    ("dev", "difference", "p", "said"),
    [
        (44.0, 9.0, 0.01, "Take sft: nothing is better on dev (45.0)."),
        (46.0, 9.0, 0.3, "does not show a difference"),
        (46.0, -9.0, 0.01, "does not show a difference"),
    ],
)
def test_what_is_taken_is_chosen_on_dev(dev: float, difference: float, p: float, said: str) -> None:
    def standing(method: str, dev: float, difference: float, p: float) -> Standing:
        return Standing(
            method=method, dev=dev, unquantized=dev, exact=Score(50, 40, 60), each=(50.0,), rounds=(1,), difference=difference,
            against=p, steps=1, seconds=1,
        )  # fmt: skip

    assert said in recommended([standing("sft", 45, 0, 1), standing("kd", dev, difference, p)])


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
    assert "| sft | 0.0 | 0.0 | 0.0 (" in done.stdout and "| kd | 0.0 |" in done.stdout
    assert done.stdout.count("capture: runs") == 1 and done.stdout.count("train: runs") == 2
    assert done.stdout.count("select: runs") == 1, "the rows are the same"
    written = (tmp_path / "compare" / "talk.md").read_text()
    assert written.strip() in done.stdout and "Take sft" in written
    assert (tmp_path / "compare" / "talk.svg").read_text().startswith("<?xml")
    again = here(tmp_path, *arguments)
    assert "runs" not in again.stdout.replace("ways of learning", ""), "nothing is trained twice"

    remote = here(tmp_path, *arguments, "--set", "teacher.base_url=http://127.0.0.1:9/v1")
    assert remote.returncode == 1 and "does not tell what it thinks" in remote.stderr and "---" not in remote.stdout
    wrong = here(tmp_path, "compare", "talk.py", "--methods", "sft,magic")
    assert wrong.returncode != 0 and "there is no method 'magic'" in wrong.stderr
