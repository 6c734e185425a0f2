"""Students on a tiny random Llama: what is trained, what is scored, what survives a kill, what the merge ships."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from workbench.errors import StudentError
from workbench.students import load, qlora
from workbench.students.batches import IGNORE, batches, by_length, collate, encode, plan
from workbench.students.load import load_model, load_tokenizer, prepare_base
from workbench.students.losses import dev_score
from workbench.students.merge import dev_exact, merge
from workbench.students.qlora import train
from workbench.students.rendering import rendering_for
from workbench.students.schedule import FLOOR, Schedule, eval_steps, peak_lr, steps_that_fit
from workbench.students.settings import Pair, Progress, TrainConfig

WORDS = ["lamp", "door", "heater", "radio", "fan", "oven"]
ROWS = [
    Pair(prompt=f"turn {way} the {word}", completion=json.dumps({"on": way == "on", "what": word}))
    for word in WORDS
    for way in ("on", "off")
]
QUICK = TrainConfig(
    r=8, lr=1e-2, epochs=4, tokens_per_step=120, evals=2, quantize_base="nf4", dropout=0.1, checkpoint_seconds=0
)


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of an undisturbed run."""
    work = tmp_path_factory.mktemp("work")
    train(tiny, ROWS, ROWS[:6], QUICK, work, lambda _: None)
    return work


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def history(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "history.jsonl").read_text().splitlines()]


def tensors(adapter: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(adapter / "adapter_model.safetensors")


# --- text and ids


def test_rendering_is_minimal_chatml_and_needs_no_torch(smollm2_hf: Path) -> None:
    words = rendering_for(smollm2_hf)
    assert words.prompt("hi {{ 1 }}") == "<|im_start|>user\nhi {{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    assert words.completion("yes") == "yes<|im_end|>"
    code = "import sys, workbench.students.rendering, workbench.students.settings; print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert told.stdout.strip() == "False"


def test_other_templates_are_kept_and_their_end_of_turn_is_found(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": [{"content": t, "special": True} for t in ("<s>", "<end>", "</s>")]})
    )
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(StudentError, match="no chat template"):
        rendering_for(tmp_path)
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    words = rendering_for(tmp_path)
    assert (words.prompt("hi"), words.completion("yo")) == ("<s>[user]hi<end>\n[assistant]", "yo<end>")


def test_only_the_completion_is_trained_and_its_end_of_turn_is(smollm2_hf: Path) -> None:
    tokenizer, words = load_tokenizer(smollm2_hf), rendering_for(smollm2_hf)
    rows = encode(tokenizer, words, [ROWS[0], ROWS[3], Pair(prompt="p", completion="abc", scored=(0, 0))])
    batch = collate(rows, tokenizer.pad_token_id)
    for turn, (row, pair) in enumerate(zip(rows, ROWS[:1] + ROWS[3:4], strict=False)):
        labels = batch.labels_B_T[turn]
        assert (labels[: row.prompt] == IGNORE).all() and (labels[len(row.ids) :] == IGNORE).all()
        assert tokenizer.decode(labels[row.prompt : len(row.ids)]) == pair.completion + "<|im_end|>"
        assert labels[len(row.ids) - 1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert tokenizer.decode(row.ids[: row.prompt]) == words.prompt(pair.prompt)
    assert batch.scored_B_T[2].sum() == 0
    assert (batch.scored_B_T[:2] == (batch.labels_B_T[:2] != IGNORE)).all()


def test_scored_characters_end_inside_a_row(smollm2_hf: Path) -> None:
    text = '{"team":"billing","reply":"We are sorry."}'
    cut = text.index('"We')
    tokenizer = load_tokenizer(smollm2_hf)
    (row,) = encode(tokenizer, rendering_for(smollm2_hf), [Pair(prompt="x", completion=text, scored=(0, cut))])
    counted = str(tokenizer.decode(row.ids[row.prompt :][: row.scored.stop]))
    assert text.startswith(counted) and cut <= len(counted) <= cut + 3


def test_scored_characters_begin_behind_a_rationale(smollm2_hf: Path) -> None:
    text = '{"steps":"4 * 12 = 48","answer":48}'
    cut = text.index(',"answer')
    tokenizer = load_tokenizer(smollm2_hf)
    (row,) = encode(tokenizer, rendering_for(smollm2_hf), [Pair(prompt="x", completion=text, scored=(cut, None))])
    counted = str(tokenizer.decode([row.ids[row.prompt :][place] for place in row.scored]))
    assert counted.endswith('answer":48}<|im_end|>') and len(counted) <= len(text) - cut + len("<|im_end|>")
    assert int(collate([row], tokenizer.pad_token_id).scored_B_T.sum()) == len(row.scored)


def test_padding_is_not_the_end_of_turn(smollm2_hf: Path, tiny: Path) -> None:
    for folder in (smollm2_hf, tiny):
        tokenizer = load_tokenizer(folder)
        assert tokenizer.eos_token == "<|im_end|>"
        assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def test_batches_are_repeatable_and_hold_each_row_once() -> None:
    lengths = [5 + (37 * row) % 60 for row in range(101)] + [999]
    found = batches(lengths, 200, seed=1, epoch=0)
    assert found == batches(lengths, 200, seed=1, epoch=0) != batches(lengths, 200, seed=1, epoch=1)
    assert sorted(row for batch in found for row in batch) == list(range(102))
    assert all(sum(lengths[row] for row in batch) <= 200 or len(batch) == 1 for batch in found)
    assert by_length(lengths[:0], 200) == []
    sorted_ = by_length(lengths, 200)
    assert sorted(row for batch in sorted_ for row in batch) == list(range(102))

    def padding(some: list[list[int]]) -> float:
        return sum(len(batch) * max(lengths[row] for row in batch) for batch in some) / sum(lengths)

    assert padding(sorted_) < 1.1, "rows that are only read stand with their like"
    assert padding(found) > 1.4, "a step's rows are of all lengths"
    crowd = [20] * 60 + [550]
    for batch in batches(crowd, 1100, seed=1, epoch=0):
        assert len(batch) * max(crowd[row] for row in batch) ** 2 <= 2000 * 1100, "a long row has few beside it"
    whole = plan(lengths, 200, 1, 2.0)
    broken = plan(lengths, 200, 1, 1.5)
    assert whole[: len(broken)] == broken and whole[-1][0] == 2.0 and 1.5 <= broken[-1][0] < 1.6


# --- schedule


def test_schedule_warms_up_cools_down_and_resizes_without_a_jump() -> None:
    schedule = Schedule(total=1000, warmup=0.06)
    assert schedule.factor(59) == 1.0 and schedule.factor(0) == pytest.approx(1 / 60)
    assert schedule.factor(999) == pytest.approx(FLOOR, abs=1e-4)
    late = schedule.resized(600, at=400)
    factors = [schedule.factor(step) for step in range(400)] + [late.factor(step) for step in range(400, 600)]
    assert all(abs(a - b) < 0.02 for a, b in pairwise(factors)), "without a jump"
    assert all(a >= b for a, b in pairwise(factors[60:])) and factors[-1] == pytest.approx(FLOOR, abs=0.01)
    often = schedule
    for at in range(400, 600, 20):
        often = often.resized(600, at)
    assert [often.factor(step) for step in range(580, 600)] == pytest.approx(
        [late.factor(step) for step in range(580, 600)]
    )
    assert schedule.resized(2000, at=400).factor(400) == pytest.approx(schedule.factor(399), abs=0.01)
    assert schedule.resized(500, at=60).factor(60) == 1.0, "where the ramp ends, it does not begin anew"
    short = schedule.resized(110, at=10)
    assert schedule.factor(9) < short.factor(10) < short.factor(11) < short.factor(15) == 1.0
    assert short.factor(109) == pytest.approx(FLOOR, abs=1e-3)
    assert eval_steps(110, 6) == {18, 37, 55, 73, 92, 110}
    assert [peak_lr(asked, size) for asked, size in ((None, 271_000_000), (None, 988_000_000), (0.5, 1))] == [
        1.5e-3,
        3e-4,
        0.5,
    ]
    assert steps_that_fit(100, 1.0, 2, 5.0) == 87 and steps_that_fit(-5, 1.0, 2, 5.0) == 1


# --- training


def test_training_learns_tells_and_keeps_a_history(trained: Path) -> None:
    lines = history(trained)
    assert lines[0]["step"] == 0 and "dev_exact" in lines[0] and "loss" not in lines[0]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["loss"] < lines[1]["loss"] and "dev_exact" in lines[-1]
    summary = json.loads((trained / "summary.json").read_text())
    best = max((x for x in lines if "dev_loss" in x), key=lambda x: (x["dev_exact"], -x["dev_loss"]))
    assert (summary["best_step"], summary["dev_exact"]) == (best["step"], best["dev_exact"])
    assert not (trained / "checkpoint.pt").exists()


def test_a_finished_run_is_not_run_again(tiny: Path, trained: Path) -> None:
    told: list[Progress] = []
    assert train(tiny, ROWS, ROWS[:6], QUICK, trained, told.append) == trained / "adapter" and told == []


def test_resume_after_a_kill_equals_an_undisturbed_run(tiny: Path, trained: Path, tmp_path: Path) -> None:
    script = tmp_path / "die.py"
    script.write_text(
        "import json, os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from workbench.students.qlora import train\n"
        "from workbench.students.settings import Pair, TrainConfig\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"
        "rows = [Pair(**row) for row in json.loads(sys.argv[3])]\n"
        "def tell(p):\n"
        "    if p.step == 6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "config = TrainConfig.model_validate_json(sys.argv[4])\n"
        "train(Path(sys.argv[2]), rows, rows[:6], config, Path(sys.argv[5]), tell)\n"
    )
    rows = json.dumps([row.model_dump() for row in ROWS])
    root = Path(__file__).parents[1]
    dead = subprocess.run(
        [sys.executable, script, str(torch.get_num_threads()), tiny, rows, QUICK.model_dump_json(), tmp_path],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert dead.returncode == -9, dead.stderr
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "adapter").exists()
    told: list[Progress] = []
    adapter = train(tiny, ROWS, ROWS[:6], QUICK, tmp_path, told.append)
    assert told[0].step == 6 and "going on after step 5" in told[0].note
    whole, resumed = tensors(trained / "adapter"), tensors(adapter)
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, msg=name)
    timeless = [
        [{k: v for k, v in line.items() if k != "tokens_per_s"} for line in history(work)]
        for work in (trained, tmp_path)
    ]
    assert [line.keys() for line in timeless[0]] == [line.keys() for line in timeless[1]]
    for one, other in zip(*timeless, strict=True):
        assert one == pytest.approx(other)


def test_the_minutes_shorten_the_schedule_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, tick = 0.0, 1.0

    def clock() -> float:
        nonlocal now
        now += tick  # each look at the clock takes this long
        return now

    def stop_at_14(progress: Progress) -> None:
        told.append(progress)
        if progress.step == 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(qlora, "monotonic", clock)
    told: list[Progress] = []
    config = QUICK.model_copy(update={"max_minutes": 3.0, "epochs": 60.0, "evals": 1})
    with pytest.raises(KeyboardInterrupt):
        train(tiny, ROWS, ROWS[:2], config, tmp_path, stop_at_14)
    fitted = told[-1].total
    assert told[0].total == 180 and 14 < fitted < 180 and {line.total for line in told[10:]} == {fitted}
    told.clear()
    tick = 5.0  # the machine got slower: the run stops in time, and still scores what it has
    train(tiny, ROWS, ROWS[:2], config, tmp_path, told.append)
    assert {line.total for line in told} == {fitted}, "the schedule that was fitted first is kept"
    assert told[0].step == 14 and told[-1].dev_exact is not None
    assert told[-1].note == "the minutes are up" and told[-1].step < fitted


def test_so_many_steps_are_made_whatever_the_minutes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 5.0  # the minutes are over after a few steps
        return now

    monkeypatch.setattr(qlora, "monotonic", clock)
    for least, epochs, made in ((0, 60.0, range(1, 20)), (40, 60.0, [40]), (900, 8.0, [24])):
        told: list[Progress] = []
        config = QUICK.model_copy(update={"max_minutes": 3.0, "epochs": epochs, "evals": 1, "min_steps": least})
        train(tiny, ROWS, ROWS[:2], config, tmp_path / str(least), told.append)
        assert told[-1].step in made and told[-1].dev_exact is not None
        if least == 40:
            assert told[-1].total == 40, "the learning rate comes to its end with them"
            assert any("40 of 180 steps are made whatever the minutes" in line.note for line in told)


def test_long_rows_are_left_out_and_told(tiny: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    config = QUICK.model_copy(update={"max_steps": 1, "max_length": 60, "quantize_base": "bf16"})
    train(tiny, [*ROWS[:2], Pair(prompt="word " * 100, completion="x")], [], config, tmp_path, told.append)
    assert told[0].note == "1 of 3 rows are longer than 60 tokens and were left out" and told[-1].dev_exact is None
    assert json.loads((tmp_path / "summary.json").read_text())["rows_too_long"] == 1
    with pytest.raises(StudentError, match="longer than 8"):
        train(tiny, ROWS, [], config.model_copy(update={"max_length": 8}), tmp_path / "b", told.append)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda *_: torch.tensor(float("nan"), requires_grad=True), "the loss is nan at step 1"),
        (lambda *_: (_ for _ in ()).throw(MemoryError()), "no memory left"),
        (lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")), "no memory left"),
        (
            lambda *_: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
            "no memory left",
        ),
    ],
)
def test_what_breaks_is_told(
    fault: Callable[..., torch.Tensor], message: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qlora, "completion_loss", fault)
    with pytest.raises(StudentError, match=message) as caught:
        train(tiny, ROWS[:2], [], QUICK, tmp_path, lambda _: None)
    assert caught.value.hint


def test_no_rows_and_no_base_are_told(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="no rows"):
        train(tiny, [], [], QUICK, tmp_path, lambda _: None)
    with pytest.raises(StudentError, match="no base model"):
        prepare_base(tmp_path / "missing.gguf", tmp_path)
    assert prepare_base(tiny, tmp_path) == tiny


# --- scoring and merging


def test_scoring_leaves_the_packed_weights_trainable(tiny: Path) -> None:
    """On AVX512-BF16 machines bitsandbytes repacks NF4 weights at the first forward in eval mode, and gradients end."""
    tokenizer = load_tokenizer(tiny)
    rows = encode(tokenizer, rendering_for(tiny), ROWS[:2])
    model = load_model(tiny, nf4=True)
    weight = model.model.layers[0].mlp.up_proj.weight
    before = weight.data.clone()
    dev_score(model.train(), rows, pad=tokenizer.pad_token_id, tokens=500)
    assert model.training and torch.equal(weight.data, before)
    assert not getattr(weight.quant_state, "packing_format_for_cpu", False)


def test_a_processor_without_bf16_trains_in_fp32(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, a step takes 26 times as long."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    losses = {}
    for able, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(load, "multiplies_bf16", lambda able=able: able)
        assert load_model(tiny).dtype == load.compute_dtype() == dtype
        packed = load_model(tiny, nf4=True).model.layers[0].mlp.up_proj
        assert packed.compute_dtype == dtype
        told: list[Progress] = []
        train(tiny, ROWS[:8], ROWS[:4], QUICK, tmp_path / str(able), told.append)
        losses[dtype] = [each.dev_loss for each in told if each.dev_loss is not None]
    assert len(losses[torch.float32]) > 1
    assert losses[torch.float32] == pytest.approx(losses[torch.bfloat16], rel=0.02)


def test_dev_exact_is_what_generate_gives(tiny: Path, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"r": 32, "epochs": 18.0, "tokens_per_step": 200, "evals": 1, "dropout": 0.0})
    adapter = train(tiny, ROWS[:8], ROWS, config, tmp_path / "work", lambda _: None)
    folder = merge(tiny, adapter, tmp_path / "merged", onto="quantized")
    tokenizer, words = load_tokenizer(folder), rendering_for(folder)
    model: Any = load_model(folder)
    right = []
    for pair in ROWS:
        ids = tokenizer(words.prompt(pair.prompt), add_special_tokens=False, return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=30, do_sample=False)[0, ids.input_ids.shape[1] :]
        right.append(tokenizer.decode(written) == words.completion(pair.completion))
    exact, loss = dev_exact(folder, ROWS)
    assert exact == sum(right) / len(right) and 0 < loss < 10
    assert 0 < sum(right) < len(right), "a comparison that means something needs some of each"


@pytest.mark.parametrize("onto", ["quantized", "base"])
def test_the_merged_model_is_the_adapters_model(tiny: Path, trained: Path, tmp_path: Path, onto: str) -> None:
    folder = merge(tiny, trained / "adapter", tmp_path / "merged", onto=onto)  # type: ignore[arg-type]
    adapted = PeftModel.from_pretrained(
        load_model(tiny, nf4=onto == "quantized", dtype=torch.float32), trained / "adapter"
    )
    plain = load_model(tiny, nf4=onto == "base", dtype=torch.float32)  # the other base, for the size of the difference
    other = PeftModel.from_pretrained(plain, trained / "adapter")
    merged = load_model(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(rendering_for(folder).prompt("turn on the lamp"), return_tensors="pt").input_ids
    with torch.no_grad():
        want, got, far = (model.eval()(input_ids=ids).logits for model in (adapted, merged, other))
    assert (got - want).abs().mean() < 0.2 * (far - want).abs().mean(), "only bf16's rounding may differ"
    assert (folder / "chat_template.jinja").read_text() == rendering_for(tiny).template
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["eos_token_id"], saved["pad_token_id"], saved["dtype"]) == (2, 0, "bfloat16")
    assert not list(tmp_path.glob(".merged-*"))
