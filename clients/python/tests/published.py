"""The source distribution of the published package, which holds its tests, examples and documents."""

from __future__ import annotations

import functools
import pathlib
import re
import subprocess
import sys
import tarfile

from peers import REPO

REQUIREMENTS = REPO / "tests" / "interop" / "requirements.txt"
HOME = REPO / "target" / "published-source"


@functools.lru_cache(maxsize=None)
def source() -> pathlib.Path:
    """Where it is unpacked, byte for byte what was published."""
    unpacked = HOME / "ipc_framework-1.1.2"
    if not unpacked.exists():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--require-hashes", "-r", str(REQUIREMENTS), "-d", str(HOME)], check=True)
        (archive,) = HOME.glob("*.tar.gz")
        with tarfile.open(archive) as members:
            if sys.version_info >= (3, 12):
                members.extractall(HOME, filter="data")
            else:
                members.extractall(HOME)
    return unpacked


def first_example(language: str) -> str:
    """A half of the first example of its README, as it stands."""
    text = (source() / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"no {language} in the README"
    return found[1]
