"""The exceptions of this package. All of them are an :class:`IPCError`."""

from __future__ import annotations

import builtins
from typing import Optional


class IPCError(Exception):
    """Any error of this package."""

    #: The kind of error for programs: a code of the protocol, such as ``no_handler``, or of the client, such as
    #: ``lost``.
    code: Optional[str] = None
    #: True if the failed request may have been carried out all the same.
    may_be_executed: bool = False


class ConnectionError(IPCError, builtins.ConnectionError):
    """There is no connection, or it was lost. Also the built-in exception of that name."""


def closed() -> ConnectionError:
    """Returns the error of a request in flight when its client is closed."""
    error = ConnectionError("the client was closed before the answer came; the request may have been carried out")
    error.code = "closed"
    error.may_be_executed = True
    return error


class RoutingError(IPCError):
    """A message could not be delivered."""


class AuthenticationError(IPCError):
    """The server requires a token, or a different one."""


class ChannelError(IPCError):
    """Something about a channel failed."""


class ApplicationError(IPCError):
    """Something about an application failed."""


class SerializationError(IPCError):
    """A payload is not JSON, or not a message."""


class TimeoutError(IPCError, builtins.TimeoutError):
    """An answer did not come in time. Also the built-in exception of that name."""
