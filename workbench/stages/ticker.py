"""How far a long loop is, told every half minute."""

from itertools import count
from time import monotonic

from workbench.stages.context import Say

EVERY_S = 30.0


class Beat:
    """`due`: whether half a minute has gone by since it was last so, or since the beginning."""

    def __init__(self) -> None:
        self.began = self.last = monotonic()

    @property
    def due(self) -> bool:
        now = monotonic()
        if now - self.last < EVERY_S:
            return False
        self.last = now
        return True


class Ticker:
    """Called once for each of `about` things that are done, from any thread: `LABEL: 3 of 80 THINGS, 1.2 min left`."""

    def __init__(self, say: Say, label: str, things: str, about: int) -> None:
        self._say, self._label, self._things, self._about = say, label, things, about
        self._count, self._beat = count(1), Beat()

    def __call__(self) -> None:
        done, beat = next(self._count), self._beat
        if beat.due and done < self._about:
            left = (beat.last - beat.began) / done * (self._about - done) / 60
            self._say(f"{self._label}: {done} of {self._about} {self._things}, {left:.1f} min left")
