"""The thread that calls a client's handlers with the messages of its connection."""

from __future__ import annotations

import dataclasses
import logging
import threading
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from . import _native
from .core import Message
from .exceptions import IPCError

if TYPE_CHECKING:
    from .client import FrameworkClient

logger = logging.getLogger("ipc_framework.client")

#: Number of answers to plain requests that are kept for the program to look up.
UNCLAIMED_MAX = 16_384


@dataclasses.dataclass(frozen=True)
class Event:
    """A change of a connection.

    `name` is one of `connected` (again, with everything restored), `leaving` (the server is about to end),
    `disconnected`, `unreachable` (an attempt to reconnect failed), `refused` and `not_restored` (a subscription or a
    served channel), `closed` (for good).
    """

    name: str
    error: Optional[IPCError] = None
    #: Number of requests that failed with the connection.
    unanswered: int = 0
    #: Upper bound of the publications and notifications that are lost.
    unconfirmed: int = 0
    #: Number of messages that wait for the next connection, or, for `closed`, that were never sent.
    waiting: int = 0


class Dispatcher:
    def __init__(self, client: FrameworkClient) -> None:
        # The connection keeps its client alive, see `client._alive`; this thread does not.
        self._client = weakref.ref(client)
        self._name = f"ipc-client-{client.app_id}"
        self.answered = threading.Condition(threading.RLock())
        #: Plain requests without an answer, and answers to others. Both are bounded, and the oldest goes first.
        self.unanswered: Dict[str, None] = {}
        self.unclaimed: Dict[str, Message] = {}
        self.callbacks: Dict[str, Callable[[Message], Any]] = {}
        self.failures: Dict[str, Callable[[IPCError], Any]] = {}
        self.listeners: List[Callable[[Event], Any]] = []
        self._waiting: Dict[str, List[_Waiting]] = {}
        self._thread: Optional[threading.Thread] = None
        #: The program itself ends the connection, so it need not be told.
        self.is_ending = False
        #: A handler has ended the connection, so the remaining items are dropped.
        self._is_cut_off = False

    def start(self, native: _native.Client) -> threading.Thread:
        self.is_ending = self._is_cut_off = False
        # A daemon thread, so that a program can end without `disconnect`; then `_lifetime` closes the connection.
        self._thread = threading.Thread(target=self._run, args=(native,), name=self._name, daemon=True)
        self._thread.start()
        return self._thread

    def join(self, thread: Optional[threading.Thread]) -> None:
        """Waits for the running handler, unless this is called by it. A stuck handler is left behind."""
        if thread is threading.current_thread():
            self._is_cut_off = True
        elif thread is not None:
            thread.join(timeout=1.0)

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    # Answers

    def expect(
        self,
        message_id: str,
        callback: Callable[[Message], Any],
        on_error: Optional[Callable[[IPCError], Any]],
    ) -> Optional[Message]:
        """Registers the callback for an answer. If the answer is there already it is returned instead."""
        with self.answered:
            early = self.unclaimed.pop(message_id, None)
            if early is not None:
                return early
            self.callbacks[message_id] = callback
            if on_error is not None:
                self.failures[message_id] = on_error
        return None

    def forget(self, message_id: str) -> Tuple[Optional[Callable[[Message], Any]], Optional[Callable[[IPCError], Any]]]:
        with self.answered:
            return self.callbacks.pop(message_id, None), self.failures.pop(message_id, None)

    def sent(self, message_id: str) -> None:
        """Notes a request for whose answer nothing waits, but which the program may look up."""
        with self.answered:
            self.unanswered[message_id] = None
            _shorten(self.unanswered)

    def wait_unclaimed(self, message_id: str, timeout: float) -> Optional[Message]:
        with self.answered:
            self.answered.wait_for(lambda: message_id in self.unclaimed, timeout)
            return self.unclaimed.pop(message_id, None)

    # Messages

    def wait_for_message(self, channel_id: str, timeout: float) -> Optional[Message]:
        if self.is_current():
            raise RuntimeError("a handler cannot wait for a message on the thread that delivers it")
        waiting = _Waiting()
        with self.answered:
            self._waiting.setdefault(channel_id, []).append(waiting)
        try:
            waiting.arrived.wait(timeout)
        finally:
            with self.answered:
                others = self._waiting.get(channel_id, [])
                if waiting in others:
                    others.remove(waiting)
                if not others:
                    self._waiting.pop(channel_id, None)
        return waiting.message

    # The thread

    def _run(self, native: _native.Client) -> None:
        while True:
            items = native.take()
            if items is None:
                return
            for kind, *item in items:
                client = self._client()
                if client is None or self._is_cut_off:
                    return
                try:
                    getattr(self, f"_{kind}")(client, *item)
                except BaseException:
                    # Even `sys.exit` in a handler ends neither the program nor the client.
                    logger.exception("a handler of %s failed", client.app_id)
                del client
                if kind == "event" and item[0] == "closed":
                    return

    def _message(self, client: FrameworkClient, message: Message) -> None:
        if message.reply_to:
            self._answer(client, message.reply_to, message, None)
            return
        with self.answered:
            waiting = self._waiting.pop(message.channel_id, [])
        for one in waiting:
            one.message = message
            one.arrived.set()
        client.handle_message(message)

    def _answer(
        self, client: FrameworkClient, message_id: str, message: Optional[Message], error: Optional[IPCError]
    ) -> None:
        with self.answered:
            callback, on_error = self.forget(message_id)
            # An answer that came after its timeout is dropped.
            is_wanted = message_id in self.unanswered
            self.unanswered.pop(message_id, None)
            if callback is None and message is not None and is_wanted:
                self.unclaimed[message_id] = message
                _shorten(self.unclaimed)
                self.answered.notify_all()
        if message is not None and callback is not None:
            callback(message)
        elif error is not None and on_error is not None:
            on_error(error)
        elif error is not None:
            level = logging.INFO if self.is_ending else logging.WARNING
            logger.log(level, "the request %s got no answer: %s", message_id, error)

    def _job(self, client: FrameworkClient, message: Message, job: _native.Job) -> None:
        client._services.submit(message, job)

    def _event(self, client: FrameworkClient, name: str, error: Optional[IPCError], *counts: int) -> None:
        event = Event(name, error, *counts)
        client._noted(event)
        for listener in list(self.listeners):
            listener(event)


def _shorten(kept: Dict[str, Any]) -> None:
    while len(kept) > UNCLAIMED_MAX:
        del kept[next(iter(kept))]


class _Waiting:
    """One call of `wait_for_message`."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.message: Optional[Message] = None
