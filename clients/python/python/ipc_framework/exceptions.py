"""The exceptions of this package. All of them are an :class:`IPCError`."""

from __future__ import annotations

import builtins
from typing import Any, Optional, Type

#: The codes of errors that applications raise begin with this; those of the server never do.
APP_PREFIX = "app:"
#: Bytes of the JSON of an application's error.
ERROR_BYTES_MAX = 16 << 10


class IPCError(Exception):
    """Any error of this package."""

    #: The kind of error for programs: a code of the protocol, such as ``no_handler``, or of the client, such as
    #: ``lost``.
    code: Optional[str] = None
    #: More about an error that an application raised: any value of JSON.
    details: Any = None
    #: True if the failed request may have been carried out all the same.
    may_be_executed: bool = False

    @property
    def is_application(self) -> bool:
        """True for an error that a handler raised as a `HandlerError`. Otherwise it comes from the server, from a
        handler that crashed, or from this client."""
        return self.code is not None and self.code.startswith(APP_PREFIX)


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


class HandlerError(IPCError):
    """Raised by a handler: the requester gets the code, the text and the details, and nothing is logged.

    `code` has 1 to 64 letters, digits and `_.-`; the requester sees it behind ``app:``, as does `code` of this object.
    `details` is any value of JSON; the whole error has at most 16 KiB of it.

    ::

        raise HandlerError("bad_input", "width is a positive number", {"field": "width"})
    """

    #: Always given here.
    code: str

    def __init__(self, code: str, text: str, details: Any = None) -> None:
        if not isinstance(code, str) or not isinstance(text, str):
            raise TypeError(f"code and text of a HandlerError are strings, not {code!r} and {text!r}")
        name = code[len(APP_PREFIX) :] if code.startswith(APP_PREFIX) else code
        if not 0 < len(name) <= 64 or not name.isascii() or not name.translate(_PUNCTUATION).isalnum():
            raise ValueError(f"the code of a HandlerError is 1 to 64 letters, digits and _.- of ASCII, not {code!r}")
        # A text with half of a surrogate pair could not be read by other languages.
        self.text = text.encode("utf-8", "backslashreplace").decode()
        super().__init__(self.text)
        self.code = APP_PREFIX + name
        self.details = _checked(self.code, self.text, details)

    def __reduce__(self) -> Any:
        # A pool of processes hands it from one to another, and a subclass may take other arguments.
        return _again, (type(self), self.code, self.text, self.details), self.__dict__


_PUNCTUATION = str.maketrans("_.-", "aaa")


def _checked(code: str, text: str, details: Any) -> Any:
    """Returns the details as they will arrive. What cannot be sent is refused here, where it was made."""
    from json import loads

    from ._native import json_text

    told = {"status": "error", "code": code, "error": text, "details": details}
    try:
        written = json_text(told)
    except (TypeError, ValueError) as error:
        raise type(error)(f"a HandlerError cannot be sent with these details: {error}") from None
    if len(written) > ERROR_BYTES_MAX:
        raise ValueError(
            f"a HandlerError has at most {ERROR_BYTES_MAX} bytes of JSON, and this one has {len(written)}; "
            "send less details, or answer with a value"
        )
    return loads(written)["details"]


def _again(kind: Type[HandlerError], code: str, text: str, details: Any) -> HandlerError:
    error = kind.__new__(kind)
    HandlerError.__init__(error, code, text, details)
    return error
