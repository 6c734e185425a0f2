"""A number that only the machine itself can tell: measured once, then remembered in the cache.

    slots = fastest("slots of qwen", (2, 4, 8, 16), measure)   # measure(8) -> how much is done in a second

Not guaranteed: a machine that was busy with something else while it was measured has its number from then; remove
`measured.json` from the cache (`workbench models path` says where it is), and it is measured anew.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.machine import cores, cpu
from workbench.models import cache_dir

FILE = "measured.json"
NEAR = 0.95  # of the best rate is as good, and fewer take less memory


def fastest(what: str, counts: Sequence[int], measure: Callable[[int], float]) -> int:
    """The least of the counts whose rate is as good as the best one's, on this machine. A count behind which it gets slower
    ends the measurement; so does one that runs out of memory (`measure` gives 0)."""
    path = cache_dir() / FILE
    name = f"{what}, {cores()} cores of {cpu()}"
    known = _read(path).get(name)
    if known is None:
        known = _measured(counts, measure)
        _write(path, {**_read(path), name: known})
    best = max(known.values())
    return next(int(count) for count, rate in known.items() if rate >= NEAR * best)


def _measured(counts: Sequence[int], measure: Callable[[int], float]) -> dict[str, float]:
    """Rates by count, from the least on, which is tried once before: what comes first pays for what the others find ready."""
    measure(min(counts))
    rates: dict[str, float] = {}
    for count in sorted(counts):
        rates[str(count)] = round(measure(count), 3)
        if rates[str(count)] < NEAR * max(rates.values()):
            break
    return rates


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Nothing where it is not there, or no JSON: it is measured anew."""
    try:
        found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _write(path: Path, known: dict[str, dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{FILE}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(known, file, indent=1)
    Path(part).replace(path)
