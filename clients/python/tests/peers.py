"""The servers that the clients are tested against, as processes of their own."""

import pathlib
import subprocess
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "tests" / "interop"))

from processes import *  # noqa: E402, F403
from processes import STEP_SECONDS_MAX, ProgramServer  # noqa: E402


class OwnServer(ProgramServer):
    """This package's `FrameworkServer`, running the program that `PublishedServer` runs."""

    def __init__(self, port=0):
        super().__init__(sys.executable, port)


def run_program(code, **options):
    """Runs Python code in a process of its own, which has to end by itself."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX, **options)
