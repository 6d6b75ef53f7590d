"""Joins Python, Node.js and Rust processes over length-prefixed JSON.

The API of the package ``ipc-framework`` 1.1.2, with a Rust server and client inside. A part of it is loaded when it is
first used: a client has no use for the server, nor has a server for the client.
"""

import sys as _sys
import warnings as _warnings
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from . import _installed

if TYPE_CHECKING:
    from .client import FrameworkClient
    from .core import Application, Channel, IPCClient, IPCServer, Message, MessageType
    from .core import Position as Position
    from .exceptions import ConnectionError, IPCError, RoutingError
    from .exceptions import HandlerError as HandlerError
    from .server import FrameworkServer
    from .tensors import Tensor as Tensor
    from .tensors import from_base64 as from_base64

_installed.warn_of_published()

if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    # A free-threaded Python takes the GIL for the native module and warns of it, which the README says already.
    with _warnings.catch_warnings():
        _warnings.filterwarnings("ignore", "The global interpreter lock", RuntimeWarning)
        from . import _native as _native

#: The version of ``ipc-framework`` whose API this is; programs compare it.
__version__ = "1.1.2"
__author__ = "IPC Framework"

__all__ = [
    "IPCServer",
    "IPCClient",
    "Application",
    "Channel",
    "Message",
    "MessageType",
    "FrameworkServer",
    "FrameworkClient",
    "IPCError",
    "ConnectionError",
    "RoutingError",
]

#: The modules, each with the names that are taken from there. `HandlerError`, `Position` and those of `tensors` are
#: this package's own, and `import *` brings what the published package brought.
_MODULES = {
    "client": ["FrameworkClient"],
    "core": ["Application", "Channel", "IPCClient", "IPCServer", "Message", "MessageType", "Position"],
    "exceptions": ["ConnectionError", "HandlerError", "IPCError", "RoutingError"],
    "server": ["FrameworkServer"],
    "tensors": ["Tensor", "from_base64"],
}


def __getattr__(name: str) -> object:
    for module_name, names in _MODULES.items():
        if name == module_name or name in names:
            break
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _import_module(f"{__name__}.{module_name}")
    for taken in names:
        globals()[taken] = getattr(module, taken)
    return globals()[name]


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__, *_MODULES, "HandlerError", "Position", "Tensor", "from_base64"})
