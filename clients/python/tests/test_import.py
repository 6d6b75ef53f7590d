"""What an import of the package does, and what it leaves alone."""

from peers import run_program

#: As a free-threaded Python does it when it loads a module that needs the GIL.
FREE_THREADED = """
import importlib.machinery, sys, warnings
sys._is_gil_enabled = lambda: False
load = importlib.machinery.ExtensionFileLoader.create_module
def create_module(self, spec):
    if spec.name == "ipc_framework._native":
        warnings.warn("The global interpreter lock (GIL) has been enabled to load module " + spec.name, RuntimeWarning)
    return load(self, spec)
importlib.machinery.ExtensionFileLoader.create_module = create_module
warnings.simplefilter("error")
import ipc_framework
try:
    warnings.warn("something else", RuntimeWarning)
except RuntimeWarning:
    print("others are errors still")
"""


def test_a_free_threaded_python_imports_it_where_warnings_are_errors():
    ended = run_program(FREE_THREADED)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "others are errors still\n", "")


WHAT_IT_LOADS = """
import sys
before = set(sys.modules)
import ipc_framework
assert {"FrameworkClient", "FrameworkServer", "core", "server"} <= set(dir(ipc_framework))
assert {"Tensor", "from_base64", "tensors"} <= set(dir(ipc_framework)) - set(ipc_framework.__all__)
from ipc_framework import FrameworkClient
needless = {"asyncio", "ctypes", "numpy", "socket", "ssl", "uuid", "ipc_framework.server", "ipc_framework.tensors"}
print(*needless & set(sys.modules) - before)
assert ipc_framework.server.FrameworkServer is ipc_framework.FrameworkServer
from ipc_framework import *
assert ConnectionError is ipc_framework.exceptions.ConnectionError
try:
    ipc_framework.missing
except AttributeError as error:
    print(error)
"""


def test_an_import_loads_nothing_that_only_some_programs_need():
    ended = run_program(WHAT_IT_LOADS)
    expected = "\nmodule 'ipc_framework' has no attribute 'missing'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, "")
