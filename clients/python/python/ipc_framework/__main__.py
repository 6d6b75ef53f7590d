"""``python -m ipc_framework`` is the program ``ipc`` that is in the wheel, whatever ``PATH`` is."""

import importlib.metadata
import os
import pathlib
import sys
from typing import Iterator

from . import _installed


def candidates() -> Iterator[pathlib.Path]:
    """Where installers put the program: they write that down, except for ``pip install --target``."""
    try:
        installed = importlib.metadata.files("ipc-framework-rs") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.parts[-2:] == ("bin", "ipc"):
            yield pathlib.Path(str(file.locate()))
    yield pathlib.Path(__file__).parents[1] / "bin" / "ipc"


def main() -> None:
    _installed.check()
    for program in candidates():
        if program.exists():
            # Its hints and errors name commands as they have to be typed, and know that by this.
            name = f"{pathlib.Path(sys.executable).name} -m ipc_framework"
            os.execv(program, [name, *sys.argv[1:]])
    sys.exit(
        "ipc_framework: this installation was built without the program `ipc`. Install a wheel of ipc-framework-rs, or "
        "build the program in a clone of the repository: cargo install --path . --features cli"
    )


if __name__ == "__main__":
    main()
