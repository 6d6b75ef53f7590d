"""The client for asyncio.

    import asyncio
    from ipc_framework import aio

    async def main():
        async with aio.connect("bench") as client:
            answer = await client.request("echo", {"hello": "world"})
            async for message in client.subscribe("news"):
                print(message.payload)

    asyncio.run(main())

No Python thread is behind it: the loop watches a descriptor that becomes readable when something
arrives, and one wake-up delivers everything that has arrived. A client belongs to the loop in which it
was connected, and must not be used by other threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import time
from typing import Any, Callable, Dict, Generator, List, Literal, Optional, Tuple, TypeVar, Union, overload
from weakref import WeakValueDictionary

from . import _installed

_installed.check()

from . import _deadlines, _hub, _lifetime, _native
from ._aio_streams import Stream
from ._aio_subscriptions import NewestQueue, Queue, Subscription
from ._events import Event
from ._servers import HOST, Hosts, Paths, native_arguments
from ._serving import QUEUE_MAX, Service, Services
from ._topics import check_last, place
from .client import EXIT_TIMEOUT, RECONNECT_PAUSES
from .core import Message, MessageType, Position, fresh_id, random_id
from .exceptions import IPCError, TimeoutError, closed
from .tls import Tls, given

__all__ = ["Client", "Event", "Stream", "Subscription", "connect"]

logger = logging.getLogger("ipc_framework.aio")

Handler = Callable[[Message], Any]
AnyHandler = TypeVar("AnyHandler", bound=Handler)


def connect(
    app_id: str,
    host: str = HOST,
    port: int = 8888,
    *,
    hosts: Hosts = None,
    unix: Paths = None,
    address_order: Literal["listed", "random"] = "listed",
    shared_memory: bool = False,
    token: Optional[str] = None,
    tls: Union[bool, Tls, None] = None,
    connection_id: Optional[str] = None,
    connect_timeout: float = 10.0,
    request_timeout: Optional[float] = 10.0,
    reconnect: Union[bool, Tuple[float, float]] = True,
    heartbeat: Optional[float] = 5.0,
    queue_bytes_max: int = 8 << 20,
    frame_bytes_max: int = 16 << 20,
) -> _Connecting:
    """Connects: `async with connect(...) as client`, or `client = await connect(...)` and `await client.close()`.

    `hosts` are several servers in place of `host`, as `"a,b:9000"` or `["a", "b:9000"]`, and those without a port have
    `port`; `unix` is the path of a Unix socket to use instead, or a list of some. Of several servers the first that
    welcomes the client is used, and when the connection ends the client goes on with the next one in turn; with
    `address_order="random"` each client has an order of its own. With `shared_memory` messages go through memory
    instead of the Unix socket, if the server behind it has that. `token` is the application's secret; `tls`
    is True to speak TLS, or an `ipc_framework.tls.Tls`. After a lost connection the client reconnects and restores
    its subscriptions and served channels, unless `reconnect` is False; a pair of seconds sets the pauses. Meanwhile
    messages wait, up to `queue_bytes_max`.

    Awaiting it raises `ConnectionError` or `AuthenticationError`: the first attempt is not repeated.
    """
    connection_id = connection_id or random_id()

    def open_native() -> _native.Client:
        return _native.Client(
            app_id=app_id,
            **native_arguments(host, port, hosts, unix, address_order),
            shared_memory=shared_memory,
            token=token,
            tls=given(tls),
            connection_id=connection_id,
            connect_timeout=connect_timeout,
            reconnect=RECONNECT_PAUSES if reconnect is True else reconnect or None,
            heartbeat=heartbeat,
            queue_bytes_max=queue_bytes_max,
            frame_bytes_max=frame_bytes_max,
            rings=True,
        )

    return _Connecting(open_native, lambda native: Client(native, app_id, connection_id, request_timeout))


class _Connecting:
    """The result of `connect`, which can be awaited or entered."""

    def __init__(self, open_native: Callable[[], _native.Client], wrap: Callable[[_native.Client], Client]) -> None:
        self._open_native = open_native
        self._wrap = wrap
        self._client: Optional[Client] = None

    async def _connect(self) -> Client:
        # Connecting may resolve names, which blocks.
        opening = _hub.begin(self._open_native)
        try:
            native = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_abandon)
            raise
        self._client = self._wrap(native)
        return self._client

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        return await self._connect()

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


def _abandon(opening: asyncio.Future[_native.Client]) -> None:
    """Ends a connection for which nothing waits any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


class Client:
    """A connection, made by `connect`."""

    def __init__(
        self, native: _native.Client, app_id: str, connection_id: str, request_timeout: Optional[float]
    ) -> None:
        self.app_id = app_id
        self.connection_id = connection_id
        self.request_timeout = request_timeout
        self._native = native
        self._loop = asyncio.get_running_loop()
        self._requests: Dict[str, asyncio.Future[Any]] = {}
        self._streams: WeakValueDictionary[int, Stream] = WeakValueDictionary()
        self._subscriptions: Dict[str, List[Queue]] = {}
        #: Each pattern has a number, which its messages have, too.
        self._patterns: Dict[str, int] = {}
        self._pattern_numbers = itertools.count(1)
        self._matching: Dict[int, List[Queue]] = {}
        self._services = Services()
        self._registrations: List[asyncio.Task[None]] = []
        self._listeners: List[Tuple[Callable[[Event], Any], contextvars.Context]] = []
        #: This process is a forked child of the one that connected.
        self._is_parents = False
        self._ended = asyncio.Event()
        #: The end that a handler has begun.
        self._closing: Optional[asyncio.Task[bool]] = None
        self._loop.add_reader(native.fileno(), self._take)
        _lifetime.keep(self)

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        return self._native.is_connected

    def info(self) -> Dict[str, Any]:
        """Returns the counters of the connection."""
        return self._native.info()

    # Sending

    async def request(self, channel_id: str, payload: Any = None, *, timeout: Optional[float] = -1.0) -> Message:
        """Sends a request to whoever serves the channel, and returns the answer.

        `timeout` is the client's `request_timeout` by default; None waits forever. One that is given travels with the
        request: whoever serves it knows how much time is left. A request that a handler makes has no more time than
        the one that it answers.

        Raises an `IPCError` with the protocol's `code` if the answer is an error, `TimeoutError` if there is none
        in time, and `ConnectionError` if the connection is lost; `may_be_executed` says whether the request may
        have been carried out. If this is cancelled, or its time is over, so is the request: a handler that has begun
        learns of it, and one that has not does not begin.
        """
        is_given = timeout is None or timeout >= 0
        wait, travels = _deadlines.limits(timeout if is_given else self.request_timeout, is_given)
        message = self._message(channel_id, MessageType.REQUEST, payload)
        message_id = message.message_id
        await self._room(wait)
        # A coroutine for this part would cost a tenth of all that a request does.
        future: asyncio.Future[Message] = self._loop.create_future()
        self._requests[message_id] = future
        try:
            self._native.ask(message, wait, travels, None)
            answer = await future
        except asyncio.CancelledError:
            self._native.forget(message_id)
            raise
        finally:
            self._requests.pop(message_id, None)
        error = _native.error_of(answer.payload)
        if error is not None:
            raise error
        return answer

    def stream(self, channel_id: str, payload: Any = None, *, timeout: Optional[float] = None) -> Stream:
        """Sends a request whose answer comes in parts, and returns an asynchronous iterator over them; each is a
        message.

        The handler makes no more parts than are read, but for a few that are on their way. `timeout` is for the whole
        stream, and travels with the request. Leaving the loop cancels the request, as do `aclose()`, the end of an
        `async with`, a cancelled task and the last reference to the iterator: the handler then ends. A handler that
        answers with one value gives a stream of one part.

        The iterator raises what `request` raises. A stream is not resumed when its connection is lost. If the server
        knows no streams its `code` is `unsupported`.
        """
        wait, _ = _deadlines.limits(timeout, True)
        return Stream(self, (fresh_id(), self.app_id, channel_id, payload, wait))

    @overload
    async def publish(
        self, channel_id: str, payload: Any, *, retain: bool = False, acknowledged: Literal[False] = False
    ) -> None: ...
    @overload
    async def publish(
        self,
        channel_id: str,
        payload: Any,
        *,
        retain: bool = False,
        acknowledged: Literal[True],
        timeout: Optional[float] = -1.0,
    ) -> Optional[Position]: ...
    async def publish(
        self,
        channel_id: str,
        payload: Any,
        *,
        retain: bool = False,
        acknowledged: bool = False,
        timeout: Optional[float] = -1.0,
    ) -> Optional[Position]:
        """Sends a value to all subscribers of the channel.

        With `retain` the server keeps it as the channel's last value, for those who subscribe later with `last=1`;
        None as the payload reaches the subscribers, and the server forgets the value. With `acknowledged` this waits
        until the server has taken it, and returns its place in the channel's history, or None if the channel has none.
        It raises what `request` raises. If the server does neither, the code is `unsupported`.
        """
        if acknowledged:
            return await self._publish_acknowledged(channel_id, payload, retain, timeout)
        await self._room(self.request_timeout)
        if retain:
            self._native.retain(fresh_id(), self.app_id, channel_id, payload)
        else:
            self._native.post(self.app_id, channel_id, MessageType.PUBLISH, payload)
        return None

    async def _publish_acknowledged(
        self, channel_id: str, payload: Any, retain: bool, timeout: Optional[float]
    ) -> Optional[Position]:
        is_given = timeout is None or timeout >= 0
        wait, _ = _deadlines.limits(timeout if is_given else self.request_timeout, is_given)
        await self._room(wait)
        message_id = fresh_id()
        future: asyncio.Future[Optional[Position]] = self._loop.create_future()
        self._requests[message_id] = future
        try:
            self._native.publish_acknowledged(message_id, self.app_id, channel_id, payload, retain, wait)
            return await future
        except asyncio.CancelledError:
            self._native.forget(message_id)
            raise
        finally:
            self._requests.pop(message_id, None)

    async def notify(self, channel_id: str, payload: Any) -> None:
        """Sends a value to whoever serves the channel; there is no answer."""
        await self._room(self.request_timeout)
        self._native.post(self.app_id, channel_id, MessageType.NOTIFICATION, payload)

    async def ping(self, *, timeout: Optional[float] = -1.0) -> float:
        """Returns how many seconds the server takes to answer. The published server does not answer: `TimeoutError`."""
        begin = time.monotonic()
        await self.request("system", {"action": "ping"}, timeout=timeout)
        return time.monotonic() - begin

    async def flush(self, *, timeout: Optional[float] = -1.0) -> None:
        """Returns when the server has processed everything that was sent before."""
        await self.ping(timeout=timeout)

    def _message(self, channel_id: str, message_type: MessageType, payload: Any) -> Message:
        return Message("", self.app_id, channel_id, message_type, payload, 0)

    async def _room(self, timeout: Optional[float]) -> None:
        """Waits until the queue has room, because the native client would block the loop."""
        begin, pause = time.monotonic(), 0.001
        while self._native.is_full:
            if timeout is not None and time.monotonic() - begin >= timeout:
                error = TimeoutError("the server does not read, and the queue is full; send less, or wait longer")
                error.code = "queue_full"
                raise error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)

    # Receiving

    def subscribe(
        self,
        channel_id: str,
        *,
        last: Optional[int] = None,
        since: Optional[Tuple[str, int]] = None,
        conflate: bool = False,
        messages_max: int = 65_536,
        bytes_max: int = 64 << 20,
    ) -> Subscription:
        """Subscribes at once, and returns the channel's messages as an asynchronous iterator.

        The iterator unsubscribes when it is closed, at the end of its `async with`, or when nothing refers to it. At
        most `messages_max` messages, and `bytes_max` bytes of their JSON, wait for a slow reader; later ones are
        dropped and counted by `missed`.

        With `last` the newest publications that the server keeps come first: so many of the channel's history, or its
        last value. With `since`, a message's `position` or a pair of epoch and offset, all after it come first; the
        event `resumed` or `gap` says whether any are missing, see `on_event`. With `conflate` only the newest
        publication of the channel waits for a slow reader, and its `offset` shows what was left out.

        Raises an `IPCError` with the code `unsupported` if the server does none of that, and `already_subscribed` if
        this client subscribes to the channel already, because what the server keeps is sent once.
        """
        check_last(last)
        begin = place(since)
        queue = NewestQueue(messages_max, bytes_max) if conflate else Queue(messages_max, bytes_max)
        queues = self._subscriptions.setdefault(channel_id, [])
        queues.append(queue)
        try:
            self._native.subscribe(channel_id, last, begin, bool(conflate))
        except BaseException:
            queues.remove(queue)
            if not queues:
                del self._subscriptions[channel_id]
            raise
        if self._ended.is_set():
            queue.end()
        return Subscription(channel_id, queue, self._unsubscribe)

    def subscribe_pattern(
        self,
        pattern: str,
        *,
        last: Optional[int] = None,
        conflate: bool = False,
        messages_max: int = 65_536,
        bytes_max: int = 64 << 20,
    ) -> Subscription:
        """Subscribes to all channels that match, and returns their messages, whose `channel_id` says where they were
        published.

        A pattern has tokens with dots between them: `*` stands for any one token, and `>` at the end for one or more,
        so that `prices.>` is all below `prices`, and `>` the whole application. A message that matches several patterns
        comes by each. See `subscribe` for the rest, with `last` publications and the newest one of each channel.
        """
        check_last(last)
        queue = NewestQueue(messages_max, bytes_max) if conflate else Queue(messages_max, bytes_max)
        known = self._patterns.get(pattern)
        number = next(self._pattern_numbers) if known is None else known
        self._native.subscribe_pattern(pattern, number, last, bool(conflate))
        self._patterns[pattern] = number
        self._matching.setdefault(number, []).append(queue)
        if self._ended.is_set():
            queue.end()
        return Subscription(pattern, queue, self._unsubscribe_pattern)

    def _unsubscribe(self, channel_id: str, queue: Queue) -> None:
        queue.end()
        queues = self._subscriptions.get(channel_id, [])
        if queue in queues:
            queues.remove(queue)
            if not queues:
                del self._subscriptions[channel_id]
                self._native.unsubscribe(channel_id)

    def _unsubscribe_pattern(self, pattern: str, queue: Queue) -> None:
        queue.end()
        number = self._patterns.get(pattern, 0)
        queues = self._matching.get(number, [])
        if queue in queues:
            queues.remove(queue)
            if not queues:
                del self._patterns[pattern], self._matching[number]
                self._native.unsubscribe_pattern(pattern)

    # Serving

    @overload
    def serve(
        self,
        channel_id: str,
        handler: AnyHandler,
        *,
        concurrency: int = 16,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> asyncio.Task[None]: ...
    @overload
    def serve(
        self,
        channel_id: str,
        handler: None = None,
        *,
        concurrency: int = 16,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> Callable[[AnyHandler], AnyHandler]: ...
    def serve(
        self,
        channel_id: str,
        handler: Any = None,
        *,
        concurrency: int = 16,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> Any:
        """Becomes a worker of the channel: the return value of `handler` answers a request.

        `await client.serve("square", square)` returns when the server has accepted. The decorator
        `@client.serve("square")` starts that, and `await client.ready()` waits for it. At most `concurrency` requests
        are handled at once, each in a copy of the context of whoever calls this; a handler that is not a coroutine
        function is called by threads. At most `queue_max` requests and 64 MiB of them wait; others are answered with
        `limit_exceeded`. An exception is logged and answered with `handler_failed`, a `HandlerError` as itself.

        A generator, or an asynchronous one, answers in parts. When nobody waits for an answer any more, what has not
        begun is dropped, an `async def` handler is cancelled, a generator is closed at its next `yield`, and
        `message.cancelled` is set: a plain function goes on, because nothing can end a thread.

        By default the server hands out all requests at once, which is best for short handlers. But then each waits at
        the worker that it was given to, even if another one has nothing to do. When a handler takes more than a
        millisecond, use `prefetch=0`: the server keeps what this worker has no hand free for, for whichever worker is
        free first, a new one included. `prefetch=n` lets this worker hold n more.
        """
        if handler is None:

            def decorate(decorated: AnyHandler) -> AnyHandler:
                self.serve(channel_id, decorated, concurrency=concurrency, prefetch=prefetch, queue_max=queue_max)
                return decorated

            return decorate
        service = self._services.make(channel_id, handler, concurrency, prefetch, queue_max, self._loop)
        # Started before the server is asked: the first request may come with its answer.
        service.start()
        task = self._loop.create_task(self._register(service))
        self._registrations.append(task)
        return task

    async def _register(self, service: Service) -> None:
        try:
            await _hub.begin(self._native.serve, service.channel_id, service.jobs, service.announced)
        except BaseException:
            service.finish()
            raise
        self._services.add(service)

    async def ready(self) -> None:
        """Returns when the server has accepted all served channels; raises the error of one that it refused."""
        registrations, self._registrations = self._registrations, []
        for task in registrations:
            await task

    async def stop_serving(self, channel_id: str) -> None:
        """Ends being a worker of the channel. Requests that have arrived are still answered."""
        try:
            await _hub.begin(self._native.stop_serving, channel_id)
        finally:
            self._services.remove(channel_id)

    # Arrivals

    def _take(self) -> bool:
        items = self._native.take_now() or ()
        for kind, *item in items:
            getattr(self, f"_on_{kind}")(*item)
        if len(items) > 1:
            # After the tasks that they wake.
            self._loop.call_soon(self._native.send_held)
        return bool(items)

    def _on_message(self, message: Message, payload_bytes: int) -> None:
        for queue in self._subscriptions.get(message.channel_id, ()):
            queue.put(message, payload_bytes)

    def _on_matched(self, message: Message, payload_bytes: int, number: Optional[int], _conflates: bool) -> None:
        queues = self._subscriptions.get(message.channel_id, ()) if number is None else self._matching.get(number, ())
        for queue in queues:
            queue.put(message, payload_bytes)

    def _on_mark(self, number: int) -> None:
        """Does nothing: here nothing waits for one."""

    def _on_answer(self, message_id: str, answer: Any, error: Optional[IPCError]) -> None:
        future = self._requests.get(message_id)
        if future is None or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)

    def _on_ready(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream._wake()

    def _on_event(
        self, name: str, error: Optional[IPCError], counts: Any, of_channel: Any, address: Optional[str]
    ) -> None:
        event = Event(name, error, *(*counts, *of_channel, address))
        level = logging.ERROR if name == "closed" and error is not None else logging.INFO
        logger.log(event.level if name in ("gap", "looks_like_pattern") else level, "%s", event)
        for listener, context in list(self._listeners):
            try:
                context.copy().run(listener, event)
            except Exception:
                logger.exception("a listener failed")
        if name == "closed":
            self._end()

    def on_event(self, listener: Callable[[Event], Any]) -> None:
        """Calls `listener` with every change of the connection and of its subscriptions, see `Event`."""
        self._listeners.append((listener, contextvars.copy_context()))

    # The end

    async def close(self, timeout: float = 10.0) -> bool:
        """Accepts no more requests to serve, answers those it has, sends waiting messages, and ends the connection.

        Returns False if that took longer than `timeout`; it is closed all the same, and coroutines that still handle
        requests are cancelled. If this is cancelled, the client is closed at once, as when the time is over.

        In a function that serves a channel, and in a task that it starts, this returns True at once, because it would
        wait for that function's answer; `wait_closed` returns at the end.
        """
        if self._is_parents:
            return True
        if self._services.is_awaited():
            # In a context of its own, where no handler waits for it.
            self._closing = contextvars.Context().run(self._loop.create_task, self._close(timeout))
            return True
        return await self._close(timeout)

    async def _close(self, timeout: float) -> bool:
        try:
            is_done = await _hub.begin(self._native.close, timeout)
            while self._take():
                pass
        except asyncio.CancelledError:
            self._end()
            self._services.cancel()
            raise
        self._end()
        if not is_done:
            await self._services.cancel_tasks()
        return is_done

    async def wait_closed(self) -> None:
        """Returns when the client is closed, by `close` or by the server for good: for programs that only serve."""
        await self._ended.wait()

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._loop.remove_reader(self._native.fileno())
        self._native.abort()
        self._services.close()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(closed())
        for stream in list(self._streams.values()):
            stream._wake()
        for queues in (*self._subscriptions.values(), *self._matching.values()):
            for queue in queues:
                queue.end()

    def _end_with_process(self) -> None:
        # The loop is gone, so waiting messages are sent here.
        self._native.close(EXIT_TIMEOUT)
        self._native.abort()

    def _left_behind(self) -> None:
        self._is_parents = True
        self._native.leave_to_parent()
