"""The thread that calls a client's handlers with what its connection brings."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from . import _native
from .core import Message
from .exceptions import IPCError

if TYPE_CHECKING:
    from .client import FrameworkClient

logger = logging.getLogger("ipc_framework.client")

#: How many answers that nobody waited for are kept for a program that looks for them.
UNCLAIMED_MAX = 1024


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to a connection.

    `name` is one of `connected` (again, all restored), `leaving` (the server is about to end), `disconnected`,
    `unreachable` (an attempt to come back failed), `refused` and `not_restored` (a subscription or a served
    channel), `closed` (for good).
    """

    name: str
    error: Optional[IPCError] = None
    #: Requests that failed with the connection.
    unanswered: int = 0
    #: At most so many publications and notifications are lost.
    unconfirmed: int = 0
    #: Messages that wait for the next connection, or, of `closed`, that were never sent.
    waiting: int = 0


class Dispatcher:
    def __init__(self, client: FrameworkClient) -> None:
        self.client = client
        self.answered = threading.Condition(threading.RLock())
        self.unclaimed: Dict[str, Message] = OrderedDict()
        self.callbacks: Dict[str, Callable[[Message], Any]] = {}
        self.failures: Dict[str, Callable[[IPCError], Any]] = {}
        self.listeners: List[Callable[[Event], Any]] = []
        self._waiting: Dict[str, List[_Waiting]] = {}
        self._thread: Optional[threading.Thread] = None

    def start(self, native: _native.Client) -> threading.Thread:
        name = f"ipc-client-{self.client.app_id}"
        # A daemon, so that a program can end without `disconnect`; what is open then is closed by `_lifetime`.
        self._thread = threading.Thread(target=self._run, args=(native,), name=name, daemon=True)
        self._thread.start()
        return self._thread

    def join(self, thread: Optional[threading.Thread]) -> None:
        """Waits for the handler that runs, unless it is the one who asks. A stuck one is left behind."""
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=1.0)

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    # Answers

    def expect(
        self,
        message_id: str,
        callback: Callable[[Message], Any],
        on_error: Optional[Callable[[IPCError], Any]],
    ) -> None:
        with self.answered:
            self.callbacks[message_id] = callback
            if on_error is not None:
                self.failures[message_id] = on_error

    def forget(self, message_id: str) -> Tuple[Optional[Callable[[Message], Any]], Optional[Callable[[IPCError], Any]]]:
        with self.answered:
            return self.callbacks.pop(message_id, None), self.failures.pop(message_id, None)

    def wait_unclaimed(self, message_id: str, timeout: float) -> Optional[Message]:
        with self.answered:
            self.answered.wait_for(lambda: message_id in self.unclaimed, timeout)
            return self.unclaimed.pop(message_id, None)

    # Messages

    def wait_for_message(self, channel_id: str, timeout: float) -> Optional[Message]:
        if self.is_current():
            raise RuntimeError("a handler cannot wait for a message on the thread that would bring it")
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
                try:
                    getattr(self, f"_{kind}")(*item)
                except Exception:
                    logger.exception("a handler of %s failed", self.client.app_id)
                if kind == "event" and item[0] == "closed":
                    return

    def _message(self, message: Message) -> None:
        if message.reply_to:
            self._answer(message.reply_to, message, None)
            return
        with self.answered:
            waiting = self._waiting.pop(message.channel_id, [])
        for one in waiting:
            one.message = message
            one.arrived.set()
        self.client.handle_message(message)

    def _answer(self, message_id: str, message: Optional[Message], error: Optional[IPCError]) -> None:
        with self.answered:
            callback, on_error = self.forget(message_id)
            if callback is None and message is not None:
                self.unclaimed[message_id] = message
                while len(self.unclaimed) > UNCLAIMED_MAX:
                    del self.unclaimed[next(iter(self.unclaimed))]
                self.answered.notify_all()
        if message is not None and callback is not None:
            callback(message)
        elif error is not None and on_error is not None:
            on_error(error)
        elif error is not None:
            logger.warning("the request %s got no answer: %s", message_id, error)

    def _job(self, message: Message, job: _native.Job) -> None:
        self.client._services.submit(message, job)

    def _event(self, name: str, error: Optional[IPCError], unanswered: int, unconfirmed: int, waiting: int) -> None:
        event = Event(name, error, unanswered, unconfirmed, waiting)
        self.client._noted(event)
        for listener in list(self.listeners):
            listener(event)


class _Waiting:
    """One call of `wait_for_message`."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.message: Optional[Message] = None
