"""The whole walk on real human-written data: seeds are shown to the teacher and trained on, dev chooses, test is scored.

    python benchmarks/home_assistant.py --data ../shared/data/home_assistant [--profile full] [--set section.key=value ...]

Prints function name accuracy, argument F1 and exact match for base, teacher and the shipped GGUF.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with seeds.jsonl, dev.jsonl and test.jsonl"
    )
    parser.add_argument("--profile", default="full")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    args = parser.parse_args()
    if not (args.data / "seeds.jsonl").is_file():
        sys.exit(f"error: {args.data} holds no seeds.jsonl\nnext:  name the folder of the data with --data")
    os.environ["HOME_ASSISTANT_DATA"] = str(args.data.resolve())
    from workbench import commands, registry
    from workbench.errors import WorkbenchError

    try:
        task = registry.load(str(Path(__file__).with_name("home_assistant_task.py")))
        commands.run(task, commands.settings(task, args.profile, args.sets))
    except WorkbenchError as error:
        sys.exit(f"error: {error}\nnext:  {error.hint}")


if __name__ == "__main__":
    main()
