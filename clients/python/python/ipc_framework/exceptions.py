"""What this package raises. All of it is an :class:`IPCError`."""

from __future__ import annotations

import builtins
from typing import Optional


class IPCError(Exception):
    """Any error of this package."""

    #: Which error it is, for programs: a code of the protocol, such as ``no_handler``, or of this side, such as
    #: ``lost``.
    code: Optional[str] = None
    #: Whether the request that it ended may have been carried out all the same.
    may_be_executed: bool = False


class ConnectionError(IPCError, builtins.ConnectionError):
    """There is no connection, or it was lost. Also the built-in exception of that name."""


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


class TimeoutError(IPCError, builtins.TimeoutError):
    """An answer did not come in time. Also the built-in exception of that name."""
