"""Joins Python, Node.js and Rust processes over length-prefixed JSON.

The API of the package ``ipc-framework`` 1.1.2, with a Rust server and client inside.
"""

import sys as _sys
import warnings as _warnings

if not getattr(_sys, "_is_gil_enabled", lambda: True)():
    # A free-threaded Python takes the GIL for the native module and warns of it, which the README says already.
    with _warnings.catch_warnings():
        _warnings.filterwarnings("ignore", "The global interpreter lock", RuntimeWarning)
        from . import _native as _native

from .client import FrameworkClient
from .core import Application, Channel, IPCClient, IPCServer, Message, MessageType
from .exceptions import ConnectionError, IPCError, RoutingError
from .server import FrameworkServer

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
