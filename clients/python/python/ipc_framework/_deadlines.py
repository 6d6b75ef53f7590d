"""The deadline of the request that a handler answers, which the requests that the handler makes inherit."""

from __future__ import annotations

import contextvars
import time
from typing import Optional, Tuple

from .exceptions import TimeoutError

#: On the clock of `time.monotonic`. Each handler runs in a context of its own, so this needs no reset.
_deadline: contextvars.ContextVar[Optional[float]] = contextvars.ContextVar("ipc_framework.deadline", default=None)


class Default(float):
    """The timeout of a method whose caller gave none. It does not travel with the request."""

    __slots__ = ()


def begin(remaining: Optional[float]) -> None:
    """Sets what is left of the time for the work in this context."""
    _deadline.set(None if remaining is None else time.monotonic() + remaining)


def limits(timeout: Optional[float], is_given: bool) -> Tuple[float, bool]:
    """Returns how many seconds to wait for an answer, and whether whoever serves the request is told.

    Raises `TimeoutError` if no time is left.
    """
    wait = float("inf") if timeout is None else timeout
    deadline = _deadline.get()
    if deadline is None:
        return wait, is_given
    left = deadline - time.monotonic()
    if left <= 0.0:
        error = TimeoutError("the time of the request that this handler answers is over, so it asks for nothing more")
        error.code = "timeout"
        raise error
    return min(wait, left), True
