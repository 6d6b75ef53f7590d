"""The server."""

from __future__ import annotations

from .core import IPCServer


class FrameworkServer(IPCServer):
    """The Rust server, with the methods of the published one."""
