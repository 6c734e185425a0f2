"""Reading GGUF files with the official `gguf` package, and the two doubts every reader has: is it there, is it one."""

from pathlib import Path
from typing import Any

from workbench.errors import EdgeError


def check_gguf(path: Path) -> Path:
    """`path` itself, if a file with the GGUF magic is there; else `EdgeError`."""
    if not path.is_file():
        raise EdgeError(f"there is no model at {path}", "give the path of a .gguf file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise EdgeError(
            f"{path} is not a GGUF file: it starts with {magic!r}",
            "an unfinished download or a Git LFS pointer looks like this; fetch it again",
        )
    return path


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader` of the file (memory-mapped). `EdgeError` if it is torn."""
    from gguf import GGUFReader

    try:
        return GGUFReader(check_gguf(path))
    except (ValueError, IndexError, KeyError) as error:  # what GGUFReader raises on a file that ends too early
        raise EdgeError(f"{path} cannot be read as GGUF: {error}", "make or fetch the file again") from error


def value(reader: Any, key: str, default: Any = None) -> Any:
    """The value of one metadata key as Python data."""
    field = reader.get_field(key)
    return default if field is None else field.contents()
