"""What the processor can do, and what processes leave behind on the disk."""

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.machine import cpu, multiplies_bf16, temporary_folder

LIVES = """
import pathlib, sys, workbench.machine as m
with m.temporary_folder(".x-", pathlib.Path(sys.argv[1])) as folder:
    (folder / "weights").write_text("w")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    def started() -> tuple["subprocess.Popen[str]", Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", LIVES, str(tmp_path)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    (dead, left), (living, held) = started(), started()
    dead.kill()
    dead.wait()
    assert (left / "weights").exists()
    (tmp_path / ".x-of-somebody-else").mkdir()
    with temporary_folder(".x-", tmp_path) as made:
        assert not left.exists()
        assert (held / "weights").exists()
    assert not made.exists()
    living.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == [".x-of-somebody-else"]


def test_a_folder_that_was_moved_stays(tmp_path: Path) -> None:
    with temporary_folder(".x-", tmp_path) as made:
        (made / "weights").write_text("w")
        made.replace(tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "weights").read_text() == "w"


@pytest.mark.parametrize(
    ("flags", "able"),
    [
        ("fma avx avx2", False),
        ("avx2 avx512f avx512bw", False),
        ("avx512f avx512_bf16", True),
        ("amx_bf16 amx_tile", True),
    ],
)
def test_a_processor_that_multiplies_in_bf16_says_so(tmp_path: Path, flags: str, able: bool) -> None:
    told = tmp_path / "cpuinfo"
    assert not multiplies_bf16(told), "no Linux"
    told.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n\nprocessor\t: 1\n")
    assert multiplies_bf16(told) == able


def test_processors_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    assert cpu(told), "no Linux"
    told.write_text("model name\t: AMD EPYC\n")
    assert cpu(told) == "AMD EPYC"
    block = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC: 2\n\n"
    told.write_text(block.format(0) + block.format(1))
    assert cpu(told) == "AMD EPYC: 2 (family 25, model 1)"
