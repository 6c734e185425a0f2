"""Reading GGUF files with the official `gguf` package, and the two doubts every reader has: is it there, is it one.

`gguf.GGUFReader` makes two numpy views of each string in a file, which takes seconds for a vocabulary and its merges.
The reader here steps over arrays and decodes one when `value` is asked for it. Little-endian files only.
"""

import struct
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
    """A `gguf.GGUFReader` of the file (memory-mapped); read its metadata with `value`. `EdgeError` if it is torn."""
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            data: Any = self.data
            kind, count = struct.unpack_from("<IQ", data, orig_offs)
            end = orig_offs + 12
            if kind == GGUFValueType.STRING:
                for _ in range(count):
                    end += 8 + struct.unpack_from("<Q", data, end)[0]
            else:
                end += count * self.gguf_scalar_to_np[GGUFValueType(kind)]().itemsize
            return end - orig_offs, [data[orig_offs:end]], [0], [GGUFValueType.ARRAY, GGUFValueType(kind)]

    try:
        return Reader(check_gguf(path))
    except (ValueError, IndexError, KeyError, struct.error) as error:  # what a file that ends too early raises
        raise EdgeError(f"{path} cannot be read as GGUF: {error}", "make or fetch the file again") from error


def value(reader: Any, key: str, default: Any = None) -> Any:
    """The value of one metadata key as Python data; an array as a list."""
    from gguf import GGUFValueType

    field = reader.get_field(key)
    if field is None:
        return default
    if field.types[0] != GGUFValueType.ARRAY:
        return field.contents()
    raw: bytes = field.parts[field.data[0]].tobytes()
    kind, count = struct.unpack_from("<IQ", raw)
    if kind != GGUFValueType.STRING:
        return field.parts[field.data[0]][12:].view(reader.gguf_scalar_to_np[GGUFValueType(kind)]).tolist()
    texts, at = [], 12
    for _ in range(count):
        (size,) = struct.unpack_from("<Q", raw, at)
        texts.append(raw[at + 8 : at + 8 + size].decode())
        at += 8 + size
    return texts
