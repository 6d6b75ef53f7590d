"""Joins Python, Node.js and Rust processes over length-prefixed JSON.

The API of the package ``ipc-framework`` 1.1.2, with a Rust server and client inside.
"""

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
