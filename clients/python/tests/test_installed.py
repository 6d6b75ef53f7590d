"""Installations beside the published package, which has its files in the same folder, and the program in the wheel."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import venv
from typing import Iterator, List

import pytest
from peers import REPO, STEP_SECONDS_MAX
from processes import BINARY

REQUIREMENTS = REPO / "tests" / "interop" / "requirements.txt"
WHEEL = os.environ.get("IPC_WHEEL", "")
#: What every program does that uses this package.
USE = """import ipc_framework
server = ipc_framework.FrameworkServer(port=0)
server.start()
server.stop()
print('used')
"""


class Environment:
    """A virtual environment without pip, which the pip of these tests serves faster."""

    def __init__(self, home: pathlib.Path) -> None:
        venv.create(home, symlinks=True)
        self.python = home / "bin" / "python"
        (self.site,) = home.glob("lib/python3*/site-packages")

    def pip(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(self.python)]
        subprocess.run([*pip, *arguments], check=True)

    def install_published(self) -> None:
        self.pip("install", "--require-hashes", "-r", str(REQUIREMENTS))

    def install_own(self) -> None:
        self.pip("install", "--no-deps", WHEEL)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(self.python), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX, cwd="/")

    def uses(self) -> None:
        """It is whole, and says nothing."""
        used = self.run("-W", "error", "-c", USE + "from ipc_framework import aio, tls\n")
        assert (used.returncode, used.stdout, used.stderr) == (0, "used\n", "")

    def mend(self, told: str) -> None:
        """Runs the commands of a message, and nothing else."""
        commands: List[str] = re.findall(r"^    python -m pip (.*)$", told, re.MULTILINE)
        assert len(commands) == 2, told
        for command in commands:
            self.pip(*(WHEEL if word == "ipc-framework-rs" else word for word in command.split()))
        self.uses()


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> Iterator[Environment]:
    if not WHEEL:
        pytest.fail("IPC_WHEEL is the wheel to install: run tests/python.py, which sets it")
    yield Environment(tmp_path / "env")


def test_a_warning_names_the_published_package_and_what_to_do(environment: Environment) -> None:
    environment.install_published()
    environment.install_own()
    used = environment.run("-c", USE)
    assert (used.returncode, used.stdout) == (0, "used\n"), used.stderr
    assert used.stderr.startswith("<string>:1: RuntimeWarning: ipc-framework and ipc-framework-rs are both installed")
    assert used.stderr.count("Warning") == 1
    quiet = environment.run("-W", "ignore::RuntimeWarning", "-c", USE)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    environment.mend(used.stderr)


@pytest.mark.parametrize("removed", [False, True], ids=["installed", "uninstalled"])
def test_what_the_published_package_broke_says_how_to_mend_it(environment: Environment, removed: bool) -> None:
    environment.install_own()
    environment.uses()
    environment.install_published()
    if removed:
        environment.pip("uninstall", "--yes", "ipc-framework")
    for use in ("from ipc_framework import aio", "from ipc_framework.tls import Tls"):
        failed = environment.run("-c", use)
        assert failed.returncode == 1
        assert "ImportError: files of ipc-framework-rs in" in failed.stderr, failed.stderr
    failed = environment.run("-m", "ipc_framework", "--version")
    assert failed.returncode == 1 and "ImportError: files of ipc-framework-rs in" in failed.stderr, failed.stderr
    environment.mend(failed.stderr)


def test_the_module_is_the_program(environment: Environment) -> None:
    environment.install_own()
    missing = environment.run("-m", "ipc_framework", "--version")
    assert missing.returncode == 1
    assert missing.stderr.startswith("ipc_framework: this installation was built without the program `ipc`.")
    # Where `pip install --target` puts it. The wheels that people get have it, which packaging/python/check tests.
    (environment.site / "bin").mkdir()
    (environment.site / "bin" / "ipc").symlink_to(BINARY)
    version = environment.run("-m", "ipc_framework", "--version")
    assert (version.returncode, version.stderr) == (0, "") and re.fullmatch(r"ipc \d+\.\d+\.\d+\S*\n", version.stdout)
    # It names itself as it was started, because `ipc` need not be in PATH.
    usage = environment.run("-m", "ipc_framework", "serve", "--what")
    assert re.search(r"; see `python\S* -m ipc_framework serve --help`\n", usage.stderr), usage.stderr
