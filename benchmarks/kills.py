"""kill -9 at many random moments over one sampling run, the same command again each time.

    python benchmarks/kills.py [--kills 50] [--wishes 400]

Prints how many requests the server received, how many of them were distinct, and whether the shard is that of an undisturbed
run. What it does is `tests/test_kill.py`, with more kills.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> None:
    from test_kill import killed_run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--wishes", type=int, default=400)
    args = parser.parse_args()
    start = monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = killed_run(Path(folder), args.kills, "--set", f"sample.inverse={args.wishes}")
    same = "the same shard as" if found.rough == found.smooth else "ANOTHER SHARD THAN"
    print(f"{args.kills} kills in {monotonic() - start:.0f} s: {len(found.received)} requests received, "
          f"{len(set(found.received))} distinct, {len(found.asked)} without kills; {same} without kills")  # fmt: skip
    sys.exit(found.rough != found.smooth or len(found.received) != len(set(found.received)))


if __name__ == "__main__":
    main()
