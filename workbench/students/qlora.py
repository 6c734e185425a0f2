"""QLoRA (Dettmers et al. 2023) on one device or several, made to be killed: the base in NF4, LoRA on all its linear layers.

`train` is a loop over planned batches. Around each step: learning rate by schedule, dev scored at even distances, a
checkpoint now and then. What is returned is the adapter that scored best on dev (exact match, then loss), not the
last one.

    work/history.jsonl   a line a step: step, epoch, tokens, loss, lr, tokens_per_s; dev_exact, dev_loss where scored
    work/checkpoint.pt   while it runs
    work/adapter/        when it is done; summary.json, written after it, says so
    work/unrounded/      the best adapter of the steps before weights were rounded, where they were

Runs are repeatable bit by bit on one machine with the same number of threads, as far as torch's kernels are; with
`max_minutes` the number of steps follows the measured speed, so only a run that goes on from a checkpoint repeats
itself.
"""

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from peft import PeftModel

from workbench.digest import digest
from workbench.errors import StudentError
from workbench.students import checkpoint
from workbench.students.batches import Encoded, collate, encode, plan, weight
from workbench.students.checkpoint import Best, State
from workbench.students.crew import ALONE, Crew
from workbench.students.grid import GRIDS
from workbench.students.lesson import TEXT, Lesson
from workbench.students.load import compute_dtype, load_model, load_tokenizer, weights_bytes
from workbench.students.lora import onto_grid, put_on, with_lora
from workbench.students.losses import DevScore, completion_loss, dev_score
from workbench.students.masters import MasterAdamW
from workbench.students.norms import fuse_norms
from workbench.students.packed import pack
from workbench.students.rendering import rendering_for
from workbench.students.schedule import Schedule, eval_steps, peak_lr, steps_that_fit
from workbench.students.settings import ADAPTER, UNROUNDED, Pair, Progress, TrainConfig
from workbench.students.subwords import encode_resplit

FIT_AFTER = 10  # steps of this life; or 4, where those took FIT_SHARE of the minutes
FIT_SHARE = 0.1
REFIT = 0.05  # share of the steps that are left by which a later guess must differ to be taken
WINDOW = 20  # steps that the told speed is the mean of


def train(
    base: Path,
    rows: Sequence[Pair],
    dev: Sequence[Pair],
    config: TrainConfig,
    work: Path,
    progress: Callable[[Progress], None],
    start: Path | None = None,
    lesson: Lesson = TEXT,
    crew: Crew = ALONE,
) -> Path:
    """Train on `rows`, from the adapter `start` if there is one, and return the adapter's folder, `work/adapter`. Called again
    after a kill it goes on; called again when done it returns at once. Without dev rows the last adapter is the best one.
    `lesson`: what is learned beside the rows' text. `crew`: who else trains with this process.

    Raises StudentError: no rows, only rows longer than `max_length`, a base that cannot be loaded, a loss that is not a
    number, no memory left.
    """
    began = monotonic()
    if not rows:
        raise StudentError("there are no rows to train on", "the report of the last run tells where they were lost")
    work.mkdir(parents=True, exist_ok=True)
    fingerprint = checkpoint.fingerprint(base, rows, dev, config, start)
    if lesson.names:
        fingerprint = digest([fingerprint, *lesson.names])
    summary = work / "summary.json"
    if summary.exists() and json.loads(summary.read_text("utf-8")).get("fingerprint") == fingerprint:
        return work / ADAPTER
    with _memory_told():
        run = _Run(
            base=base,
            rows=rows,
            dev=dev,
            config=config,
            work=work,
            progress=progress,
            fingerprint=fingerprint,
            began=began,
            start=start,
            lesson=lesson,
            crew=crew,
        )
        run.loop()
        if crew.leads:
            run.publish()
        crew.wait()
        return work / ADAPTER


class _Run:
    """One life of a run: the model and the rows in memory, and the state that outlives it."""

    def __init__(
        self,
        *,
        base: Path,
        rows: Sequence[Pair],
        dev: Sequence[Pair],
        config: TrainConfig,
        work: Path,
        progress: Callable[[Progress], None],
        fingerprint: str,
        began: float,
        start: Path | None,
        lesson: Lesson,
        crew: Crew,
    ) -> None:
        self.crew = crew
        self.config, self.work, self.progress, self.fingerprint = config, work, progress, fingerprint
        tokenizer, rendering = load_tokenizer(base), rendering_for(base)
        self.pad = int(tokenizer.pad_token_id)
        encoded = encode_resplit(tokenizer, rendering, rows, config)
        self.taught, self.parent = lesson.taught, lesson.parent
        taught = self.taught
        self.blend = taught.blend if taught is not None else None
        if taught is not None:
            encoded = [
                row._replace(soft=taught.of(pair, row.ids[row.prompt :]))
                for pair, row in zip(rows, encoded, strict=True)
            ]
        self.rows = [row for row in encoded if len(row.ids) <= config.max_length]
        self.too_long = len(encoded) - len(self.rows)
        if not self.rows:
            raise StudentError(
                f"all {len(encoded)} rows are longer than {config.max_length} tokens", "raise max_length in [train]"
            )
        self.dev = encode(tokenizer, rendering, dev)
        lengths = [len(row.ids) for row in self.rows]
        self.steps = plan(lengths, config.tokens_per_step, config.seed, config.epochs, config.max_steps)
        self.model, told = _student(base, config, lesson, crew, start)
        beside = self.parent.join(self.model) if self.parent is not None else []
        self.peak = peak_lr(config.lr, weights_bytes(base))
        self.optimizer = MasterAdamW(
            [*(param for param in self.model.parameters() if param.requires_grad), *beside],
            lr=self.peak,
            weight_decay=config.weight_decay,
            dtype=compute_dtype(),
        )
        self.device = self.optimizer.params[0].device
        saved = checkpoint.load(work, fingerprint, self.optimizer)
        self.state = saved or State(Schedule(len(self.steps), config.warmup))
        self.grid, self.last_mile = lesson.grid, lesson.last_mile
        self.state.rounded |= self.grid is not None and not saved and self._rounded_from() == 0
        if self.grid is not None and not self.state.rounded:
            onto_grid(self.model, None)
        crew.wait()  # until each has read what the first will write anew
        self.origin = began - self.state.elapsed
        self.saved_at = monotonic()
        self.recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)  # seconds and tokens of a step
        self.history = (work / "history.jsonl" if crew.leads else Path(os.devnull)).open("w", encoding="utf-8")
        self.history.writelines(json.dumps(line) + "\n" for line in self.state.history)
        note = f"{self.too_long} of {len(encoded)} rows are longer than {config.max_length} tokens and were left out"
        self.notes = [*told, *([note] if self.too_long else [])]
        if taught is not None:
            self.notes.append(f"the teacher says what it thinks of {taught.share:.0%} of the tokens")
            if taught.unlike:
                self.notes.append(
                    f"its tokenizer spells {taught.unlike} rows otherwise: of these the text alone is learned"
                )
        if saved:
            self.notes.append(f"going on after step {saved.step}")
        elif (work / checkpoint.FILE).exists():
            self.notes.append("the checkpoint here is of another run: training from the start")

    def loop(self) -> None:
        """All steps from where the state stands to where the schedule or the time ends."""
        state = self.state
        try:
            if state.step == 0 and not state.history:
                self._tell({"step": 0, "epoch": 0.0, "tokens": 0, "lr": 0.0} | self._look())
            while state.step < state.schedule.total:
                line = self._step()
                self._fit()
                out_of_time = self._out_of_time()
                last = out_of_time or state.step == state.schedule.total
                due = last or self._rounds_next() or state.step in eval_steps(state.schedule.total, self.config.evals)
                if self.dev and due:
                    line |= self._look()
                plain = out_of_time and self.grid is not None and not state.rounded
                early = ", before weights were rounded" if plain else ""
                self._tell(line, f"the minutes are up{early}" if out_of_time else "")
                if self.crew.leads and not last and monotonic() - self.saved_at >= self.config.checkpoint_seconds:
                    state.elapsed = monotonic() - self.origin
                    checkpoint.save(self.work, self.fingerprint, state, self.optimizer)
                    self.saved_at = monotonic()
                if out_of_time:
                    return
        finally:
            self.history.close()

    def publish(self) -> None:
        """Write the best adapters, then the summary that says they are there; the checkpoint has served."""
        state = self.state
        best = state.best or Best(state.step, DevScore(math.nan, math.nan), [])
        self._save(best, ADAPTER)
        if state.unrounded is not None:
            self._save(state.unrounded, UNROUNDED)
        scored = state.best is not None
        summary = {
            "fingerprint": self.fingerprint,
            "rows": len(self.rows),
            "rows_too_long": self.too_long,
            "steps": state.step,
            "steps_planned": len(self.steps),
            "tokens": state.tokens,
            "seconds": round(monotonic() - self.origin, 1),
            "best_step": best.step,
            "dev_exact": best.score.exact if scored else None,
            "dev_loss": best.score.loss if scored else None,
            **({"rounded": state.rounded} if self.grid is not None else {}),
            **({"unrounded_step": state.unrounded.step} if state.unrounded is not None else {}),
            **({"aligned": round(self.taught.share, 4)} if self.taught is not None else {}),
        }
        temporary = self.work / ".summary.tmp"
        temporary.write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
        temporary.replace(self.work / "summary.json")
        (self.work / checkpoint.FILE).unlink(missing_ok=True)

    def _save(self, best: Best, name: str) -> None:
        """Without tensors it is the adapter as it stands."""
        for param, tensor in zip(self.optimizer.params, best.tensors, strict=False):
            param.data.copy_(tensor)
        temporary, folder = self.work / f".{name}.tmp", self.work / name
        shutil.rmtree(temporary, ignore_errors=True)
        self.model.save_pretrained(str(temporary), save_embedding_layers=False)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)

    def _step(self) -> dict[str, Any]:
        """One update; the history line of it."""
        began, state = monotonic(), self.state
        if self.grid is not None and self._rounds_next():
            onto_grid(self.model, GRIDS[self.grid])
            state.rounded, state.unrounded, state.best = True, state.best, None
            self.recent.clear()  # a step takes longer now, by how much is measured anew
            state.fitted = False
        epoch, chosen = self.steps[state.step]
        rows, factor = [self.rows[row] for row in chosen], state.schedule.factor(state.step)
        self.model.train()
        tokens = sum(len(row.ids) for row in rows)
        value = self.crew.sum(self._pull(rows, tokens))
        if not math.isfinite(value):
            raise StudentError(
                f"the loss is {value} at step {state.step + 1}",
                f"lower the learning rate: lr = {self.peak / 3:.1g}",
            )
        self.crew.sum_gradients(self.optimizer.params)
        self.optimizer.step(factor)
        state.step += 1
        state.tokens += tokens
        self.recent.append((monotonic() - began, tokens))
        return {
            "step": state.step,
            "epoch": round(epoch, 4),
            "tokens": state.tokens,
            "loss": round(value, 5),
            "lr": self.peak * factor,
            "tokens_per_s": round(self._speed(), 1),
        }

    def _rounds_next(self) -> bool:
        """Whether the last mile begins with the next step."""
        return self.grid is not None and not self.state.rounded and self.state.step >= self._rounded_from()

    def _rounded_from(self) -> int:
        """The step before which the last mile begins, as things stand: it is one step at least."""
        total = self.state.schedule.total
        return total - min(total, max(1, round(self.last_mile * total)))

    def _pull(self, rows: Sequence[Encoded], tokens: int) -> float:
        """Gradients by this process's share of a step's rows, and its part of the loss. `tokens`: how many all of them have."""
        balance, mine = self.config.balance, self.crew.share(rows)
        if not mine and not self.crew.sharded:
            return 0.0
        share = weight(mine, balance) / weight(rows, balance)
        batch = collate(mine or rows[:1], self.pad).to(self.device)  # the others wait for it at each block
        if self.parent is not None:
            read = sum(len(row.ids) for row in mine) / tokens
            loss = self.parent.loss(self.model, batch, balance, share, read)
        else:
            loss = completion_loss(self.model, batch, balance, self.blend, share)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _look(self) -> dict[str, float]:
        """Score dev and keep the adapter if it is the best one; nothing if there is no dev."""
        if not self.dev:
            return {}
        began, best = monotonic(), self.state.best
        score = self.crew.said(dev_score(self.model, self.dev, pad=self.pad, tokens=self.config.tokens_per_step))
        if best is None or (score.exact, -score.loss) > (best.score.exact, -best.score.loss):
            tensors = [param.detach().cpu().clone() for param in self.optimizer.params]
            self.state.best = Best(self.state.step, score, tensors)
        self.state.eval_seconds = monotonic() - began
        return {"dev_exact": score.exact, "dev_loss": round(score.loss, 5)}

    def _fit(self) -> None:
        """After some steps of this life, and again each `WINDOW`: shorten the schedule to what the minutes allow, or lengthen
        it again, so that the learning rate comes to its end with them."""
        state, limit = self.state, self.config.max_minutes
        planned = state.schedule.total
        if limit is None or state.step == planned or (state.fitted and state.step % WINDOW):
            return
        total = self.crew.said(self._steps_in(limit * 60))
        if total is None:
            return
        if total < planned if not state.fitted else abs(total - planned) > REFIT * (planned - state.step):
            fit = "are made whatever the minutes" if total == self.config.min_steps else f"fit into {limit:g} minutes"
            self.notes.append(f"{total} of {len(self.steps)} steps {fit}")
            state.schedule = state.schedule.resized(total, at=state.step)
        state.fitted = True

    def _steps_in(self, seconds: float) -> int | None:
        """How many steps fit, those made included; None while too few were measured."""
        state, elapsed, made = self.state, monotonic() - self.origin, len(self.recent)
        if made < FIT_AFTER and (made < 4 or elapsed < FIT_SHARE * seconds):
            return None
        timed = [each for each, _ in list(self.recent)[made // 3 :]]  # the first ones are slow
        looks = sum(step > state.step for step in eval_steps(state.schedule.total, self.config.evals))
        more = steps_that_fit(seconds - elapsed, sum(timed) / len(timed), looks, state.eval_seconds)
        return min(max(state.step + more, self.config.min_steps), len(self.steps))

    def _out_of_time(self) -> bool:
        """Whether one more step and the last look at dev would take too long, and the steps are enough."""
        limit, ahead = self.config.max_minutes, self.recent[-1][0] + self.state.eval_seconds
        if limit is None or self.state.step < self.config.min_steps:
            return False
        return self.crew.said(monotonic() - self.origin + ahead > limit * 60)

    def _speed(self) -> float:
        """Tokens a second over the last steps, without padding."""
        return sum(tokens for _, tokens in self.recent) / max(1e-9, sum(seconds for seconds, _ in self.recent))

    def _tell(self, line: dict[str, Any], note: str = "") -> None:
        self.state.history.append(line)
        self.history.write(json.dumps(line) + "\n")
        self.history.flush()
        state, left = self.state, None
        if self.recent:
            looks = sum(step > state.step for step in eval_steps(state.schedule.total, self.config.evals))
            mean = sum(seconds for seconds, _ in self.recent) / len(self.recent)
            left = (state.schedule.total - state.step) * mean + looks * state.eval_seconds
        told = {key: line.get(key) for key in ("loss", "dev_exact", "dev_loss")}
        notes, self.notes = "; ".join([*self.notes, *([note] if note else [])]), []
        total, speed = state.schedule.total, line.get("tokens_per_s", 0.0)
        self.progress(Progress(state.step, total, line["epoch"], told["loss"], line["lr"], speed, left,
                               told["dev_exact"], told["dev_loss"], notes))  # fmt: skip


def _student(
    base: Path, config: TrainConfig, lesson: Lesson, crew: Crew, start: Path | None
) -> tuple[PeftModel, list[str]]:
    """As it is trained, with what is to be told of it. Of one that is spread over processes, the whole is read into memory."""
    torch.manual_seed(config.seed)
    memory = torch.device("cpu") if crew.sharded else None
    loaded = load_model(base, nf4=config.quantize_base == "nf4", here=memory)
    pack(loaded)
    model = with_lora(
        loaded,
        r=config.r,
        alpha=config.alpha,
        dropout=config.dropout,
        dtype=compute_dtype(),
        grid=GRIDS[lesson.grid] if lesson.grid is not None else None,
        unpacked=crew.sharded,
    )
    if start is not None:
        put_on(model, start)
    fuse_norms(model)
    if not crew.sharded:
        return model, []
    from workbench.students.shards import shard

    return model, [f"each of {crew.size} processes holds {shard(model, crew):.0%} of the blocks' weights"]


@contextmanager
def _memory_told() -> Iterator[None]:
    """Out-of-memory, in the three shapes torch gives it, as a StudentError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
            raise StudentError(
                "there was no memory left", "halve tokens_per_step, or take a smaller student"
            ) from error
        raise
