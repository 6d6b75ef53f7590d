"""What the documents show works, and the type stubs say what is so."""

from __future__ import annotations

import importlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys
from typing import Any, Dict

import ipc_framework
from wire import Peer

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def test_the_first_example_of_the_readme() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    (example, *_) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: Dict[str, Any] = {}
    exec(example, names)
    server = names["server"]
    try:
        peer = Peer(server, "math")
        assert peer.ask("square", 7) == 49
        assert peer.ask("slow", "it") == {"asked": "it"}
        assert peer.ask("log") == "noted"
    finally:
        server.stop()


def test_the_reference_has_every_public_name() -> None:
    script = (PACKAGE.parents[1] / "docs" / "references").read_text(encoding="utf-8")
    (names,) = re.findall(r"^modules=\(ipc_framework ipc_framework\.\{(.*)\}\)$", script, re.MULTILINE)
    modules = [ipc_framework, *(importlib.import_module(f"ipc_framework.{name}") for name in names.split(","))]
    shown = {name for module in modules for name in getattr(module, "__all__", vars(module))}
    assert {name for names in ipc_framework._MODULES.values() for name in names} <= shown


def test_what_is_installed() -> None:
    files = {str(file) for file in importlib.metadata.files("ipc-framework-rs") or [] if "__pycache__" not in str(file)}
    own = {file for file in files if file.startswith("ipc_framework/")}
    source = PACKAGE / "python"
    there = {str(file.relative_to(source)) for file in source.rglob("*") if file.suffix in (".py", ".pyi", ".typed")}
    assert own == there | {"ipc_framework/_native.abi3.so"}, "one native module for all Pythons, and nothing else"
    assert any(file.endswith("licenses/LICENSE") for file in files), files
    wheel = importlib.metadata.distribution("ipc-framework-rs").read_text("WHEEL")
    assert wheel is not None and "Tag: cp311-abi3-" in wheel


def test_types() -> None:
    # The usages against the installed package, as programs see it: `py.typed` has to be there.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental"]
    for target in (PACKAGE / "tests" / "types" / "server_usages.py", PACKAGE / "python"):
        checked = subprocess.run([*command, str(target)], capture_output=True, text=True, cwd="/")
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_stubs_say_what_is_there() -> None:
    # A type checker that is old enough for an option not to be known has no use for it either.
    known = subprocess.run([sys.executable, "-m", "mypy.stubtest", "--help"], capture_output=True, text=True).stdout
    options = [one for one in ("--ignore-disjoint-bases",) if one in known]
    # The one module with a stub: what the others say of themselves mypy checks.
    command = [sys.executable, "-m", "mypy.stubtest", *options, "ipc_framework._native"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_mistakes_are_type_errors() -> None:
    wrong = "from ipc_framework import FrameworkServer\nFrameworkServer(port='8888')\nFrameworkServer(worker=1)\n"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental", "-c", wrong]
    checked = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert checked.stdout.count("error:") == 2, checked.stdout
