"""Which few-shot block is kept for sampling, and which is the baseline."""

from pathlib import Path

import pytest
from servers import TeacherServer
from small import here, sampling, write_task

from workbench import registry
from workbench.config import Config
from workbench.ledger import Ledger
from workbench.stages import examples, shots
from workbench.stages.context import Context, read_json
from workbench.stages.shots import kept, score_replies


@pytest.mark.parametrize(
    ("group", "nearest", "mode"),
    [("1100", "1100", "group"), ("1100", "1110", "group"), ("1100", "1111", "nearest"), ("0111", "1111", "group"),
     ("00111", "11110", "group"), ("000011", "111101", "nearest")],
)  # fmt: skip
def test_a_dearer_few_shot_block_has_to_be_plainly_better(group: str, nearest: str, mode: str) -> None:
    rights = {name: [mark == "1" for mark in marks] for name, marks in (("group", group), ("nearest", nearest))}
    assert kept(rights) == mode


def test_what_the_shots_may_cost_is_bounded_too(tmp_path: Path) -> None:
    write_task(tmp_path)
    sets = ("teacher.price_in=1000", "runtime.max_money=0.5", "runtime.concurrency=1", "shots.mode=auto")
    with TeacherServer(tmp_path / "log") as server:
        counts = [0]
        for _ in range(2):
            done = here(tmp_path, *sampling(server.base_url, *sets))
            assert done.returncode == 1 and "the budget of 0.5 in money is spent" in done.stderr
            assert "raise runtime.max_money" in done.stderr
            counts.append(server.count)
        assert counts[0] < counts[1] < counts[2], "what was paid for before is given, and counts no more"


@pytest.mark.parametrize(
    ("marks", "mode", "best"),
    [({"group": "110000", "mixed": "111000"}, "group", "mixed"), ({"group": "110000", "mixed": "111100"}, "mixed", "mixed"),
     ({"group": "110000", "mixed": "011000"}, "group", "group")],
)  # fmt: skip
def test_the_best_block_is_the_baseline_though_sampling_keeps_a_cheaper_one(
    marks: dict[str, str], mode: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = registry.load(str(write_task(tmp_path)))
    dev = task.examples("dev")

    async def measured(*_: object) -> object:
        rights = {mode: [mark == "1" for mark in row] for mode, row in marks.items()}
        tables = {}
        for name, row in rights.items():
            said = [task.output.dump(one.target) if right else "no" for one, right in zip(dev, row, strict=True)]
            tables[name] = score_replies(task.output, dev, said)
        return tables, rights

    monkeypatch.setattr(shots, "_try_all", measured)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        folders = {name: tmp_path / name for name in ("examples", "shots")}
        for folder in folders.values():
            folder.mkdir()
        context = Context(task, Config(), folders, folders["examples"], ledger, tmp_path, str.strip)
        examples.run(context)
        context.out = folders["shots"]
        shots.run(context)
    found = read_json(folders["shots"] / "shots.json")
    assert (found["mode"], found["best"]) == (mode, best)
