"""The thread that calls a client's handlers with the messages of its connection."""

from __future__ import annotations

import contextvars
import itertools
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple

from . import _hub, _native
from ._events import Event
from ._topics import Patterns
from .core import Message
from .exceptions import IPCError, TimeoutError, closed

if TYPE_CHECKING:
    import queue

    from ._streams import Stream
    from .client import FrameworkClient

logger = logging.getLogger("ipc_framework.client")

#: Number of answers to plain requests that are kept for the program to look up, and bytes of their JSON together.
UNCLAIMED_MAX = 16_384
UNCLAIMED_BYTES_MAX = 64 << 20
#: Messages that wait for slow handlers, and bytes of their JSON together: those of the native client's queue once more,
#: where a greenlet empties that.
READ_MAX = 65_536
READ_BYTES_MAX = 64 << 20
#: Seconds for which a wait whose time is over goes on, if a handler delays what may have come in time.
CATCH_UP_SECONDS_MAX = 1.0


class Dispatcher:
    def __init__(self, client: FrameworkClient) -> None:
        # The connection keeps its client alive, see `client._alive`; this thread does not.
        self._client = weakref.ref(client)
        self._name = f"ipc-client-{client.app_id}"
        self.answered = threading.Condition(threading.RLock())
        #: Plain requests without an answer, and answers to others. Both are bounded, and the oldest goes first.
        self.unanswered: Dict[str, None] = {}
        self.unclaimed: Dict[str, Message] = {}
        self._unclaimed_bytes: Dict[str, int] = {}
        self._unclaimed_bytes_sum = 0
        self.callbacks: Dict[str, Callable[[Message], Any]] = {}
        #: What to call without an answer, and the context of whoever asked, in which it and the callback are called.
        self._asked: Dict[str, Tuple[Optional[Callable[[IPCError], Any]], contextvars.Context]] = {}
        self.listeners: List[Tuple[Callable[[Event], Any], contextvars.Context]] = []
        self.patterns = Patterns()
        self._waiting: Dict[str, List[_Waiting]] = {}
        self._thread: Optional[threading.Thread] = None
        #: Threads are greenlets, which have to yield where threads block.
        self.is_cooperative = False
        #: Requests of this connection for which greenlets wait.
        self._green: Dict[str, GreenWaiter] = {}
        #: Streams of this connection that greenlets read; None where threads read them.
        self.green_streams: Optional[weakref.WeakValueDictionary[int, Stream]] = None
        self._arrived: Optional[_Arrived] = None
        #: See `_catch_up`.
        self._mark_numbers = itertools.count(1)
        self._marked = 0
        #: Nothing is handed out any more.
        self._has_ended = False
        #: The program itself ends the connection, so it need not be told.
        self.is_ending = False
        #: A handler has ended the connection, so the remaining items are dropped.
        self._is_cut_off = False

    def start(self, native: _native.Client) -> threading.Thread:
        self.is_ending = self._is_cut_off = self._has_ended = False
        self.is_cooperative = native.fileno() >= 0
        self._green = {}
        self.green_streams = weakref.WeakValueDictionary() if self.is_cooperative else None
        self._arrived = _Arrived() if self.is_cooperative else None
        # A daemon thread, so that a program can end without `disconnect`; then `_lifetime` closes the connection.
        run = _hub.ends_as_thread(self._run)
        self._thread = threading.Thread(target=run, args=(native,), name=self._name, daemon=True)
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
            early = self._claim(message_id)
            if early is not None:
                return early
            self.callbacks[message_id] = callback
            self._asked[message_id] = (on_error, contextvars.copy_context())
        return None

    def forget(self, message_id: str) -> None:
        with self.answered:
            self.callbacks.pop(message_id, None)
            self._asked.pop(message_id, None)

    def sent(self, message_id: str) -> None:
        """Notes a request for whose answer nothing waits, but which the program may look up."""
        with self.answered:
            self.unanswered[message_id] = None
            while len(self.unanswered) > UNCLAIMED_MAX:
                del self.unanswered[next(iter(self.unanswered))]

    def green_waiter(self) -> GreenWaiter:
        return GreenWaiter(self._green)

    def wait_unclaimed(
        self, native: Optional[_native.Client], message_id: str, timeout: float
    ) -> Optional[Message]:
        with self.answered:
            has_come = self.answered.wait_for(lambda: message_id in self.unclaimed or self._has_ended, timeout)
        if not has_come:
            self._catch_up(native)
        with self.answered:
            return self._claim(message_id)

    def _claim(self, message_id: str) -> Optional[Message]:
        self._unclaimed_bytes_sum -= self._unclaimed_bytes.pop(message_id, 0)
        return self.unclaimed.pop(message_id, None)

    def _keep_unclaimed(self, message_id: str, message: Message, payload_bytes: int) -> None:
        self.unclaimed[message_id] = message
        self._unclaimed_bytes[message_id] = payload_bytes
        self._unclaimed_bytes_sum += payload_bytes
        while len(self._unclaimed_bytes) > UNCLAIMED_MAX or self._unclaimed_bytes_sum > UNCLAIMED_BYTES_MAX:
            oldest = next(iter(self._unclaimed_bytes))
            self._unclaimed_bytes_sum -= self._unclaimed_bytes.pop(oldest)
            # The program may have taken it.
            self.unclaimed.pop(oldest, None)
        self.answered.notify_all()

    # Messages

    @property
    def missed(self) -> int:
        """The number of messages that were read and then dropped, because greenlets were too slow."""
        return 0 if self._arrived is None else self._arrived.missed

    def wait_for_message(
        self, native: Optional[_native.Client], channel_id: str, timeout: float
    ) -> Optional[Message]:
        if self.is_current():
            raise RuntimeError("a handler cannot wait for a message on the thread that delivers it")
        waiting = _Waiting()
        with self.answered:
            self._waiting.setdefault(channel_id, []).append(waiting)
        try:
            if not waiting.arrived.wait(timeout):
                self._catch_up(native)
        finally:
            with self.answered:
                others = self._waiting.get(channel_id, [])
                if waiting in others:
                    others.remove(waiting)
                if not others:
                    self._waiting.pop(channel_id, None)
        return waiting.message

    def _catch_up(self, native: Optional[_native.Client]) -> None:
        """Returns when all that has arrived was handed out. A deadline passes in a process that is stopped, too, and
        then what came in time lies in the socket. A handler that takes long is not waited for."""
        if native is None or self._has_ended:
            return
        number = next(self._mark_numbers)
        _hub.call(native.mark, number)
        with self.answered:
            self.answered.wait_for(lambda: self._marked >= number or self._has_ended, CATCH_UP_SECONDS_MAX)

    # The thread

    def _run(self, native: _native.Client) -> None:
        try:
            self._hand_out(native)
        finally:
            if self.is_current():
                self._end_waits()

    def _end_waits(self) -> None:
        with self.answered:
            self._has_ended = True
            self.answered.notify_all()
            for waiting in self._waiting.values():
                for one in waiting:
                    one.arrived.set()

    def _hand_out(self, native: _native.Client) -> None:
        for kind, *item in self._arrivals(native) if self.is_cooperative else _each_item(native):
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

    def _arrivals(self, native: _native.Client) -> Iterator[Tuple[Any, ...]]:
        """Yields what arrives, while another greenlet reads: the greenlet that calls handlers may wait in one of them
        for an answer."""
        assert self._arrived is not None
        assert self.green_streams is not None
        arguments = (native, self._green, self.green_streams, self._arrived)
        read = _hub.ends_as_thread(self._read)
        threading.Thread(target=read, args=arguments, name=f"{self._name}-reader", daemon=True).start()
        return iter(self._arrived.get, None)

    def _read(
        self,
        native: _native.Client,
        green: Dict[str, GreenWaiter],
        streams: weakref.WeakValueDictionary[int, Stream],
        arrived: _Arrived,
    ) -> None:
        items = native.take_now()
        while items is not None:
            for item in items:
                if item[0] == "ready":
                    stream = streams.get(item[1])
                    if stream is not None:
                        stream.wake()
                    continue
                waiter = green.pop(item[1], None) if item[0] == "answer" else None
                if waiter is not None:
                    waiter.put(item[2], item[3])
                else:
                    arrived.put(item)
            if items:
                # Others go on, even if there is always more.
                time.sleep(0)
                # What they have sent meanwhile leaves together.
                native.send_held()
            else:
                _hub.wait_readable(native.fileno())
            items = native.take_now()
        arrived.put(None)
        for stream in list(streams.values()):
            stream.wake()
        while green:
            _, waiter = green.popitem()
            waiter.put(None, closed())

    def _message(self, client: FrameworkClient, message: Message, payload_bytes: int) -> None:
        if message.reply_to:
            self._answer(client, message.reply_to, message, None, payload_bytes)
            return
        self._wake_waiting(message)
        client.handle_message(message)

    def _matched(
        self, client: FrameworkClient, message: Message, _bytes: int, number: Optional[int], _conflates: bool
    ) -> None:
        self._wake_waiting(message)
        if number is None:
            client.handle_message(message)
            return
        handler = self.patterns.handler(number)
        if handler is None:
            return
        function, context = handler
        context.copy().run(function, message)

    def _wake_waiting(self, message: Message) -> None:
        with self.answered:
            waiting = self._waiting.pop(message.channel_id, [])
        for one in waiting:
            one.message = message
            one.arrived.set()

    def _answer(
        self,
        client: FrameworkClient,
        message_id: str,
        message: Optional[Message],
        error: Optional[IPCError],
        payload_bytes: int = 0,
    ) -> None:
        with self.answered:
            callback = self.callbacks.pop(message_id, None)
            on_error, context = self._asked.pop(message_id, (None, None))
            # An answer that came after its timeout is dropped.
            is_wanted = message_id in self.unanswered
            self.unanswered.pop(message_id, None)
            if callback is None and message is not None and is_wanted:
                self._keep_unclaimed(message_id, message, payload_bytes)
        run = contextvars.Context().run if context is None else context.run
        if message is not None and callback is not None:
            run(callback, message)
        elif error is not None and on_error is not None:
            run(on_error, error)
        elif error is not None:
            level = logging.INFO if self.is_ending else logging.WARNING
            logger.log(level, "the request %s got no answer: %s", message_id, error)

    def _mark(self, client: FrameworkClient, number: int) -> None:
        with self.answered:
            self._marked = max(self._marked, number)
            self.answered.notify_all()

    def _event(
        self,
        client: FrameworkClient,
        name: str,
        error: Optional[IPCError],
        counts: Any,
        of_channel: Any,
        address: Optional[str],
    ) -> None:
        event = Event(name, error, *(*counts, *of_channel, address))
        client._noted(event)
        for listener, context in list(self.listeners):
            context.copy().run(listener, event)


def _each_item(native: _native.Client) -> Iterator[Tuple[Any, ...]]:
    for items in iter(native.take, None):
        yield from items


class _Waiting:
    """One call of `wait_for_message`."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.message: Optional[Message] = None


class _Arrived:
    """What a greenlet has read for the one that calls handlers, as far as the bounds allow."""

    def __init__(self) -> None:
        import queue

        #: Each item is the only element of a list, where a newer one can replace it.
        self._items: queue.Queue[List[Optional[Tuple[Any, ...]]]] = queue.Queue()
        self._replaceable: Dict[Tuple[Any, ...], List[Optional[Tuple[Any, ...]]]] = {}
        self._bytes = 0
        self.missed = 0

    def put(self, item: Optional[Tuple[Any, ...]]) -> None:
        cell = [item]
        if item is not None and item[0] in ("message", "matched"):
            key = _key(item)
            older = self._replaceable.get(key)
            waiting, replaced = (1, older[0][2]) if older is not None and older[0] is not None else (0, 0)
            is_full = self._items.qsize() - waiting >= READ_MAX
            if is_full or self._bytes - replaced + item[2] > READ_BYTES_MAX:
                self.missed += 1
                return
            self._bytes += item[2] - replaced
            if older is not None:
                older[0] = item
                return
            if key:
                self._replaceable[key] = cell
        self._items.put(cell)

    def get(self) -> Optional[Tuple[Any, ...]]:
        item = self._items.get()[0]
        if item is not None and item[0] in ("message", "matched"):
            self._bytes -= item[2]
            self._replaceable.pop(_key(item), None)
        return item


def _key(item: Tuple[Any, ...]) -> Tuple[Any, ...]:
    """Returns the subscription and the channel of a message, if the newest one of the channel is enough for it."""
    return (item[3], item[1].channel_id) if item[0] == "matched" and item[4] else ()


class GreenWaiter:
    """What `_native.Waiter` is to a thread, for a greenlet: the wait yields to the hub."""

    def __init__(self, waiters: Dict[str, GreenWaiter]) -> None:
        self._waiters = waiters
        self._arrived = threading.Event()
        self._asked: Optional[Tuple[_native.Client, str]] = None
        self._answer: Any = None
        self._error: Optional[IPCError] = None

    @property
    def is_used(self) -> bool:
        """Returns whether a request was sent with it."""
        return self._asked is not None

    def ask(self, native: _native.Client, message: Message, timeout: float, travels: bool) -> None:
        self.expect(native, message.message_id, lambda: native.ask(message, timeout, travels, None))

    def expect(self, native: _native.Client, message_id: str, send: Callable[[], bool]) -> None:
        """Calls `send`, which returns whether an answer comes."""
        self._waiters[message_id] = self
        try:
            if send():
                self._asked = (native, message_id)
        finally:
            if self._asked is None:
                self._waiters.pop(message_id, None)

    def put(self, answer: Any, error: Optional[IPCError]) -> None:
        self._answer, self._error = answer, error
        self._arrived.set()

    def wait(self) -> Optional[Message]:
        """Waits until the answer comes or cannot come any more; None if the time is over."""
        try:
            message: Optional[Message] = self.result()
        except TimeoutError:
            if self._error is None:
                # It comes from elsewhere, such as a handler of a signal.
                raise
            return None
        return message

    def result(self) -> Any:
        """Waits until the answer comes. Raises its error if it cannot come any more, or the time is over."""
        assert self._asked is not None
        native, message_id = self._asked
        try:
            self._arrived.wait()
        except BaseException:
            # Ctrl-C, or a `gevent.Timeout`.
            self._waiters.pop(message_id, None)
            native.forget(message_id)
            raise
        if self._error is not None:
            raise self._error
        return self._answer
