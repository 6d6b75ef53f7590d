"""The event of a request for whose answer nobody waits any more."""

from __future__ import annotations

from typing import Optional, Protocol

from . import _hub


class _Event(Protocol):
    def is_set(self) -> bool: ...
    def wait(self, timeout: Optional[float]) -> bool: ...


class Cancelled:
    """Is set when nobody waits for the answer any more: the requester has cancelled or left, or its time is over.

    It is not set by the answer. After that, nobody can cancel the request any more.
    """

    def __init__(self, event: _Event) -> None:
        self._event = event

    def is_set(self) -> bool:
        """Returns whether nobody waits any more."""
        return self._event.is_set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until it is set, and returns whether it is. Blocks the thread: a coroutine does not need it."""
        return _hub.call(self._event.wait, timeout)


class Never:
    """The event of a message that nobody can cancel."""

    def is_set(self) -> bool:
        return False

    def wait(self, timeout: Optional[float]) -> bool:
        import threading

        return threading.Event().wait(timeout)
