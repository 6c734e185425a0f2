"""The learning rate over the steps, when to look at dev, and how many steps fit into the time. Pure arithmetic."""

import math
from dataclasses import dataclass, replace

FLOOR = 0.05  # share of the peak learning rate that the cosine ends at
SMALL = 400_000_000  # bytes of a student's weights in bf16, two a parameter
PEAK_SMALL, PEAK = 1.5e-3, 3e-4  # docs/results.md, "The learning rate and the student's size"
SPARE = 0.97  # share of the time that is planned; the rest is for saving and for a slower hour


def peak_lr(asked: float | None, weights_bytes: int) -> float:
    """The learning rate that was asked for, or the one that suits a student of this size."""
    return asked or (PEAK_SMALL if weights_bytes <= SMALL else PEAK)


@dataclass(frozen=True)
class Schedule:
    """Linear ramp from `start_factor` at step `start` to 1, then a cosine down to FLOOR at step `total`.

    `warmup` is the ramp's share of the steps from `start` on, `phase` the share of the cosine that was gone through before
    `start`; then there is no ramp. A run that turns out slower or faster than its minutes asked for is `resized`: what is left
    of ramp or cosine is spread over the steps that are left, so that neither jumps nor begins anew.
    """

    total: int
    warmup: float
    start: int = 0
    start_factor: float = 0.0
    phase: float = 0.0

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by at 0-based `step`."""
        ramp, done = self._ramp, step + 1 - self.start
        if done <= ramp:
            return self.start_factor + (1 - self.start_factor) * done / ramp
        return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * self._phase(step)))

    def resized(self, total: int, at: int) -> "Schedule":
        """The schedule for the steps from `at` on, where only `total` steps will be made."""
        if at - self.start <= self._ramp:
            return replace(self, total=total, start=at, start_factor=self.factor(at - 1) if at else 0.0)
        return replace(self, total=total, start=at, phase=self._phase(at - 1))

    def _phase(self, step: int) -> float:
        """Of the cosine, after a step behind the ramp."""
        ramp = self._ramp
        gone = (step + 1 - self.start - ramp) / max(1, self.total - self.start - ramp)
        return self.phase + (1 - self.phase) * min(1.0, gone)

    @property
    def _ramp(self) -> int:
        """Steps."""
        return 0 if self.phase else max(1, round(self.warmup * (self.total - self.start)))


def eval_steps(total: int, evals: int) -> frozenset[int]:
    """After how many steps to score dev: `evals` times, evenly, the last one after the last step."""
    return frozenset(max(1, round(total * turn / evals)) for turn in range(1, evals + 1))


def steps_that_fit(seconds: float, step_seconds: float, evals: int, eval_seconds: float) -> int:
    """How many more steps fit into `seconds`, with `evals` looks at dev among them; at least 1."""
    return max(1, int((seconds * SPARE - evals * eval_seconds) / max(step_seconds, 1e-9)))
