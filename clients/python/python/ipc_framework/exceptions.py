"""What this package raises. All of it is an :class:`IPCError`."""

from __future__ import annotations


class IPCError(Exception):
    """Any error of this package."""


class ConnectionError(IPCError):
    """There is no connection, or it was lost."""


class RoutingError(IPCError):
    """A message could not be brought to where it should go."""


class AuthenticationError(IPCError):
    """The server wants a token, or another one."""


class ChannelError(IPCError):
    """Something about a channel failed."""


class ApplicationError(IPCError):
    """Something about an application failed."""


class SerializationError(IPCError):
    """A payload is not JSON, or not a message."""


class TimeoutError(IPCError):
    """An answer did not come in time."""
