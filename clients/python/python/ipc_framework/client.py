"""The client."""

from __future__ import annotations

from .core import IPCClient


class FrameworkClient(IPCClient):
    """The Rust client, with the methods of the published one."""
