"""What processes leave behind on the disk."""

import os
import subprocess
import sys
from pathlib import Path

from workbench.machine import temporary_folder


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    code = "import pathlib, sys, workbench.machine as m; m.temporary_folder('.x-', pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=True)
    (left,) = (tmp_path / "new").iterdir()
    living = tmp_path / "new" / f".x-{os.getppid()}-abc"
    foreign = tmp_path / "new" / ".x-keep"
    living.mkdir()
    foreign.mkdir()
    made = temporary_folder(".x-", tmp_path / "new")
    assert made.name.startswith(f".x-{os.getpid()}-")
    assert not left.exists()
    assert sorted((tmp_path / "new").iterdir()) == sorted([living, foreign, made])
