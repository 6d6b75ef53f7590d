"""Patterns, what a server keeps of a channel, and publications that it keeps or acknowledges, for `FrameworkClient`."""

from __future__ import annotations

import contextvars
import itertools
import threading
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from . import _deadlines, _native
from ._deadlines import Default
from .core import Handler, Position, fresh_id

if TYPE_CHECKING:
    from .client import FrameworkClient

#: The most publications that can be asked for by `last`.
LAST_MAX = (1 << 32) - 1
OFFSET_MAX = (1 << 64) - 1


def check_last(last: Optional[int]) -> None:
    if last is None:
        return
    if not isinstance(last, int):
        raise TypeError(f"last is the number of publications to begin with, not {last!r}")
    if not 0 < last <= LAST_MAX:
        raise ValueError(f"last is a number from 1 on, not {last!r}; leave it out to begin with the next publication")


def place(since: Optional[Tuple[str, int]]) -> Optional[Tuple[str, int]]:
    """Returns the place that the native client is given for `since`."""
    if since is None:
        return None
    is_pair = isinstance(since, (tuple, list)) and len(since) == 2
    if not is_pair or not isinstance(since[0], str) or not isinstance(since[1], int):
        raise TypeError(f"since is the position of a message, or a pair (epoch, offset), not {since!r}")
    if not 0 <= since[1] <= OFFSET_MAX:
        raise ValueError(f"the offset of since is a number from 0 on, not {since[1]!r}")
    return since[0], since[1]


class Patterns:
    """The handlers of a client's patterns. Each has a number, which its messages have, too: those of a subscription
    that has ended do not reach a later one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counter = itertools.count(1)
        self._numbers: Dict[str, int] = {}
        self._handlers: Dict[int, Tuple[Handler, contextvars.Context]] = {}

    def subscribe(
        self, native: _native.Client, pattern: str, handler: Handler, last: Optional[int], conflate: bool
    ) -> None:
        in_context = (handler, contextvars.copy_context())
        with self._lock:
            known = self._numbers.get(pattern)
            number = next(self._counter) if known is None else known
            if known is None:
                # Set before the server is asked: the first message may come at once.
                self._handlers[number] = in_context
            try:
                native.subscribe_pattern(pattern, number, last, conflate)
            except BaseException:
                if known is None:
                    del self._handlers[number]
                raise
            self._handlers[number] = in_context
            self._numbers[pattern] = number

    def unsubscribe(self, native: _native.Client, pattern: str) -> None:
        with self._lock:
            number = self._numbers.pop(pattern, None)
            if number is not None:
                del self._handlers[number]
                native.unsubscribe_pattern(pattern)

    def handler(self, number: int) -> Optional[Tuple[Handler, contextvars.Context]]:
        with self._lock:
            return self._handlers.get(number)

    def names(self) -> "list[str]":
        with self._lock:
            return list(self._numbers)

    def clear(self) -> None:
        """Forgets them, because the next connection knows none of them."""
        with self._lock:
            self._numbers.clear()
            self._handlers.clear()


def subscribe(
    client: FrameworkClient,
    channel_id: str,
    handler: Optional[Handler],
    last: Optional[int],
    since: Optional[Tuple[str, int]],
    conflate: bool,
) -> None:
    check_last(last)
    begin = place(since)
    native = ready(client)
    with client._lock:
        before = client.message_handlers.get(channel_id), client._handler_contexts.get(channel_id)
    if handler:
        client._set_handler(channel_id, handler)
    try:
        native.subscribe(channel_id, last, begin, bool(conflate))
    except BaseException:
        if handler:
            with client._lock:
                client._remove_handler(channel_id)
                if before[0] is not None:
                    client.message_handlers[channel_id] = before[0]
                if before[1] is not None:
                    client._handler_contexts[channel_id] = before[1]
        raise


def retain(client: FrameworkClient, channel_id: str, data: Any) -> str:
    message_id = fresh_id()
    ready(client).retain(message_id, client.app_id, channel_id, data)
    return message_id


def publish_acknowledged(
    client: FrameworkClient, channel_id: str, data: Any, is_retained: bool, timeout: float
) -> Optional[Position]:
    wait, _ = _deadlines.limits(timeout, type(timeout) is not Default)
    native = ready(client)
    message_id = fresh_id()

    def publish() -> Optional[Position]:
        return native.publish_acknowledged(message_id, client.app_id, channel_id, data, is_retained, wait)

    if not client._dispatcher.is_cooperative:
        return publish()
    waiter = client._dispatcher.green_waiter()
    waiter.expect(native, message_id, lambda: publish() is None)
    position: Optional[Position] = waiter.result()
    return position


def ready(client: FrameworkClient) -> _native.Client:
    """Returns the connection, once a greenlet may send."""
    native = client._connection()
    if client._dispatcher.is_cooperative:
        client._wait_for_room(native)
    return native
