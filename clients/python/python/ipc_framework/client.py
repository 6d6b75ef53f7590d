"""The client: the published package's, with this project's Rust client inside.

A thread of its own calls the handlers. A slow handler delays other handlers, but never the
connection: answers, heartbeats and messages of other threads go on.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Literal, Optional, Set, Tuple, TypeVar, Union, overload

from . import _deadlines, _hub, _lifetime, _native, _topics
from ._deadlines import Default
from ._dispatch import Dispatcher
from ._events import Event
from ._logs import flag, print_log
from ._servers import HOST, Hosts, Paths, native_arguments
from ._serving import QUEUE_MAX, Services
from ._streams import Stream
from ._threads import wait_for
from .core import IPCClient, Message, MessageType, Position, fresh_id, random_id
from .exceptions import ConnectionError, IPCError, TimeoutError
from .tls import Tls, given

if TYPE_CHECKING:
    import socket

logger = logging.getLogger("ipc_framework.client")

Handler = Callable[[Message], Any]
AnyHandler = TypeVar("AnyHandler", bound=Handler)
#: Connected clients, which are kept alive as in the published package.
_alive: Set[FrameworkClient] = set()
AnyClient = TypeVar("AnyClient", bound="FrameworkClient")

#: Bounds of the pauses before attempts to reconnect in seconds: the first one, and the last one to which it doubles.
RECONNECT_PAUSES = (0.05, 5.0)
#: Seconds for which an answer to `send_request_async` is awaited by default.
ANSWER_TIMEOUT = 300.0
#: Seconds for which the end of the program may wait for messages to be sent and answered.
EXIT_TIMEOUT = 2.0
#: Seconds between two looks of a greenlet whether a full queue has room again.
ROOM_PAUSE = 0.002


class FrameworkClient(IPCClient):
    """A connection to a server, for any number of threads.

    Parameters beyond the published constructor: `hosts` are several servers in place of `host`, as `"a,b:9000"` or
    `["a", "b:9000"]`, and those without a port have `port`; `unix` is the path of a Unix socket to use instead, or a
    list of some. Of several servers the first that welcomes the client is used, and when the connection ends the client
    goes on with the next one in turn; with `address_order="random"` each client has an order of its own.
    With `shared_memory` messages go through memory instead of the Unix socket, if the server behind it has that.

    `token` is the application's secret; `tls` is True to speak TLS, or an `ipc_framework.tls.Tls`; `connection_id` is
    the id by which the server knows the client, random by default. After a lost connection the client reconnects and
    restores its subscriptions and served channels, unless `reconnect` is False; a pair of seconds sets the pauses.
    Meanwhile messages wait, up to `queue_bytes_max`. `verbose` prints the log, as the published client does; its
    default comes from the variable `IPC_FRAMEWORK_VERBOSE`.
    """

    def __init__(
        self,
        app_id: str,
        host: str = HOST,
        port: int = 8888,
        connection_timeout: float = 10.0,
        *,
        hosts: Hosts = None,
        unix: Paths = None,
        address_order: Literal["listed", "random"] = "listed",
        shared_memory: bool = False,
        token: Optional[str] = None,
        tls: Union[bool, Tls, None] = None,
        connection_id: Optional[str] = None,
        reconnect: Union[bool, Tuple[float, float]] = True,
        heartbeat: Optional[float] = 5.0,
        queue_bytes_max: int = 8 << 20,
        frame_bytes_max: int = 16 << 20,
        verbose: Optional[bool] = None,
    ) -> None:
        self._native: Optional[_native.Client] = None
        super().__init__(app_id, host, port)
        self.connection_timeout = connection_timeout
        self.hosts = hosts
        self.unix = unix
        self.address_order = address_order
        self.shared_memory = shared_memory
        self.token = token
        self.tls = tls
        if connection_id is not None:
            self.connection_id = connection_id
        self.reconnect = reconnect
        self.heartbeat = heartbeat
        self.queue_bytes_max = queue_bytes_max
        self.frame_bytes_max = frame_bytes_max
        if flag("IPC_FRAMEWORK_VERBOSE") if verbose is None else verbose:
            print_log()
        #: The reason why the last attempt to connect failed.
        self.last_error: Optional[IPCError] = None
        self._start_afresh()
        _lifetime.keep(self)

    def _start_afresh(self) -> None:
        """Sets up the state without a connection, for a new object or in a forked child."""
        self._native = None
        self._is_cooperative = _hub.is_cooperative()
        self._lock = threading.RLock()
        self._life = threading.RLock()
        self._socket_lock = threading.RLock()
        self._asking = threading.local()
        self._dispatcher = Dispatcher(self)
        self._services = Services()
        self._ended = threading.Event()
        self._ended.set()
        self.receive_thread: Optional[threading.Thread] = None

    # The connection

    @property
    def connected(self) -> bool:
        """True while there is a connection."""
        native = self._native
        return native is not None and native.is_connected

    @connected.setter
    def connected(self, value: bool) -> None:
        # The published classes assign it, but the state of the connection counts.
        pass

    @property
    def socket(self) -> Optional[socket.socket]:
        """A duplicate of the connection's socket, for its addresses and options; None without a connection.

        Bytes read from it are lost to the client.
        """
        native = self._native
        descriptor = None if native is None else native.duplicate_socket()
        if descriptor is None:
            return None
        import socket

        return socket.socket(fileno=descriptor)

    @property
    def pending_responses(self) -> Dict[str, Message]:
        """The last answers for which nothing waited, by the request's id: at most 16,384, and 64 MiB of JSON."""
        return self._dispatcher.unclaimed

    @property
    def response_handlers(self) -> Dict[str, Handler]:
        """Callbacks of `send_request_async` that have not been called yet, by the request's id."""
        return self._dispatcher.callbacks

    @property
    def _response_lock(self) -> threading.Condition:
        return self._dispatcher.answered

    def connect(self) -> bool:
        """Connects to the server. Returns False if that fails; `last_error` and the log say why.

        If the client is reconnecting, this waits for it.
        """
        if self._native is None and self._is_cooperative != _hub.is_cooperative():
            # The locks are those of threads, and greenlets would not keep one another out.
            listeners = self._dispatcher.listeners
            self._start_afresh()
            self._dispatcher.listeners = listeners
        with self._life:
            native = self._native
            if native is not None:
                if _hub.call(native.wait_connected, self.connection_timeout):
                    return True
                if not native.is_closed:
                    return False
                self._forget()
            try:
                native = _hub.call(self._open)
            except IPCError as error:
                self.last_error = error
                logger.warning(f"Connection failed: {error}")
                return False
            self.last_error = None
            self._ended = threading.Event()
            # The new connection knows none of them.
            self._dispatcher.patterns.clear()
            self._native = native
            _alive.add(self)
            # A client to which nothing refers does not reconnect.
            self._finalizer = weakref.finalize(self, native.abort)
            self._finalizer.atexit = False  # type: ignore[misc, unused-ignore]  # some stubs have no such slot
            self.receive_thread = self._dispatcher.start(native)
            logger.info(f"Connected to IPC server as {self.app_id}:{self.connection_id}")
            return True

    def _open(self) -> _native.Client:
        return _native.Client(
            app_id=self.app_id,
            **native_arguments(self.host, self.port, self.hosts, self.unix, self.address_order),
            shared_memory=self.shared_memory,
            token=self.token,
            tls=given(self.tls),
            connection_id=self.connection_id,
            connect_timeout=self.connection_timeout,
            reconnect=RECONNECT_PAUSES if self.reconnect is True else self.reconnect or None,
            heartbeat=self.heartbeat,
            queue_bytes_max=self.queue_bytes_max,
            frame_bytes_max=self.frame_bytes_max,
            # Greenlets wait for a descriptor, and threads for the native module.
            rings=_hub.is_cooperative(),
        )

    def disconnect(self) -> None:
        """Answers the requests that it serves, sends waiting messages, and ends the connection.

        Without a connection this does not wait. The client can be connected again.
        """
        self.close()

    def close(self, timeout: Optional[float] = None) -> bool:
        """As `disconnect`. Returns False if that took longer than `timeout`, by default `connection_timeout`.

        In a function that serves a channel it returns at once, because it would wait for that function's answer.
        """
        if self._services.is_current():
            threading.Thread(target=self.close, args=(timeout,), name="ipc-close").start()
            return True
        with self._life:
            native = self._native
            if native is None:
                return True
            timeout = self.connection_timeout if timeout is None else timeout
            self._dispatcher.is_ending = True
            # Without a connection this does not wait, and messages that wait for a connection are lost.
            if native.is_connected:
                is_done = _hub.call(native.close, timeout)
            else:
                is_done = not native.info().get("waiting_bytes")
            services = self._services
            self._forget()
            if not is_done:
                services.cancel()
        if not is_done:
            logger.warning("some messages could not be sent or answered in time, and are lost")
        logger.info("Disconnected from IPC server")
        return is_done

    def _forget(self) -> None:
        native, self._native = self._native, None
        _alive.discard(self)
        if native is not None:
            self._finalizer.detach()
            native.abort()
            # Handlers get the messages that came before, if they are fast.
            self._dispatcher.join(self.receive_thread)
            native.discard()
        self._services.close()
        self._ended.set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Blocks until the client is closed by `close`, or by the server for good. For programs that only serve."""
        return wait_for(self._ended, timeout)

    def __enter__(self: AnyClient) -> AnyClient:
        if not self.connect():
            raise self.last_error or ConnectionError("there is no connection to the server")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Sending

    def _connection(self) -> _native.Client:
        native = self._native
        if native is None:
            raise ConnectionError("Not connected to server; call connect() first")
        return native

    def _send_message(self, message: Message) -> str:
        """Sends a message without changing it. All messages go through here, so that a subclass sees them."""
        native = self._connection()
        if self._dispatcher.is_cooperative:
            self._wait_for_room(native)
        kind = message.message_type
        if kind is MessageType.REQUEST:
            # The way in which this thread sends its request.
            send = self._asking.__dict__.pop("send", self._send_plain)
            send(native, message)
        elif kind is MessageType.SUBSCRIBE and message.payload == {"connection_id": self.connection_id}:
            native.subscribe(message.channel_id)
        elif kind is MessageType.UNSUBSCRIBE and message.payload == {"connection_id": self.connection_id}:
            native.unsubscribe(message.channel_id)
        elif kind is MessageType.SUBSCRIBE or kind is MessageType.UNSUBSCRIBE:
            # The payload is the program's own, such as one that asks for a confirmation.
            self._send_plain(native, message)
        else:
            native.send(message)
        return message.message_id

    def _wait_for_room(self, native: _native.Client) -> None:
        """Lets other greenlets go on while the queue is full. The native client would block all of them."""
        deadline = time.monotonic() + self.connection_timeout
        while native.is_full and native.is_connected and time.monotonic() < deadline:
            time.sleep(ROOM_PAUSE)

    def _send_plain(self, native: _native.Client, message: Message) -> None:
        self._dispatcher.sent(message.message_id)
        native.send(message)

    def send_request(self, channel_id: str, data: Any, timeout: float = Default(5.0)) -> Optional[Message]:
        """Sends a request and waits for the answer: a message, or None if none comes in time.

        A `timeout` that is given travels with the request: whoever serves it knows how much time is left, and it is
        cancelled at the end. A request that a handler makes has no more time than the one that it answers.

        An error is an answer too: `payload["status"]` is then `"error"`, and `payload["code"]` has its code.
        Raises `ConnectionError` if the connection is lost meanwhile; its `may_be_executed` says whether
        the request may have been carried out. May be called in handlers.
        """
        try:
            timeout, travels = _deadlines.limits(timeout, type(timeout) is not Default)
        except TimeoutError:
            return None
        if self._dispatcher.is_cooperative:
            return self._request_of_greenlet(channel_id, data, timeout, travels)
        native = self._native
        if native is not None and not self._sends_in_its_own_way():
            return native.request(fresh_id(), self.app_id, channel_id, data, timeout, travels)
        waiter = _native.Waiter()

        def send(native: _native.Client, message: Message) -> None:
            native.ask(message, timeout, travels, waiter)

        message_id = self._request_by(send, channel_id, data)
        if waiter.is_used:
            return waiter.wait()
        # A subclass sends requests in its own way.
        return self._dispatcher.wait_unclaimed(self._native, message_id, timeout)

    def _request_of_greenlet(
        self, channel_id: str, data: Any, timeout: float, travels: bool
    ) -> Optional[Message]:
        waiter = self._dispatcher.green_waiter()

        def send(native: _native.Client, message: Message) -> None:
            waiter.ask(native, message, timeout, travels)

        message_id = self._request_by(send, channel_id, data)
        if waiter.is_used:
            return waiter.wait()
        return self._dispatcher.wait_unclaimed(self._native, message_id, timeout)

    def send_request_async(
        self,
        channel_id: str,
        data: Any,
        callback: Handler,
        timeout: float = Default(ANSWER_TIMEOUT),
        on_error: Optional[Callable[[IPCError], Any]] = None,
    ) -> str:
        """Sends a request, and calls `callback` with the answer. Returns the request's id.

        Without an answer, after the timeout or a lost connection, `on_error` is called, or the error is logged.
        """
        timeout, travels = _deadlines.limits(timeout, type(timeout) is not Default)
        expected = []

        def send(native: _native.Client, message: Message) -> None:
            # Registered before the request leaves, because its answer may come at once.
            self._dispatcher.expect(message.message_id, callback, on_error)
            expected.append(message.message_id)
            try:
                native.ask(message, timeout, travels, None)
            except BaseException:
                self._dispatcher.forget(message.message_id)
                raise

        message_id = self._request_by(send, channel_id, data)
        if message_id not in expected:
            # A subclass sends requests in its own way.
            early = self._dispatcher.expect(message_id, callback, on_error)
            if early is not None:
                callback(early)
        return message_id

    def stream(self, channel_id: str, data: Any = None, *, timeout: Optional[float] = None) -> Stream:
        """Sends a request whose answer comes in parts, and returns an iterator over them: each is a message.

        The handler makes no more parts than are read, but for a few that are on their way. `timeout` is for the whole
        stream, and travels with the request. Leaving the loop cancels the request, as do `close()`, the end of a `with`
        and the last reference to the iterator: the handler then ends. A handler that answers with one value gives a
        stream of one part.

        The iterator raises an `IPCError` with the protocol's `code` if the stream ends with an error, `TimeoutError`
        if its time is over, and `ConnectionError` if the connection is lost; a stream is not resumed. If the server
        knows no streams its `code` is `unsupported`.
        """
        wait, _ = _deadlines.limits(timeout, True)
        native = self._connection()
        if self._dispatcher.is_cooperative:
            self._wait_for_room(native)
        return Stream(native, self._dispatcher.green_streams, (fresh_id(), self.app_id, channel_id, data, wait))

    def _request_by(self, send: Callable[[_native.Client, Message], None], channel_id: str, data: Any) -> str:
        self._asking.send = send
        try:
            return self.request(channel_id, data)
        finally:
            self._asking.__dict__.pop("send", None)

    @overload
    def publish(
        self, channel_id: str, data: Any, *, retain: bool = False, acknowledged: Literal[False] = False
    ) -> str: ...
    @overload
    def publish(
        self, channel_id: str, data: Any, *, retain: bool = False, acknowledged: Literal[True], timeout: float = ...
    ) -> Optional[Position]: ...
    def publish(
        self,
        channel_id: str,
        data: Any,
        *,
        retain: bool = False,
        acknowledged: bool = False,
        timeout: float = Default(5.0),
    ) -> Union[str, Optional[Position]]:
        """Publishes data to the subscribers of a channel. Returns the message's id.

        Publications that follow one another closely leave together, up to a tenth of a millisecond later.

        With `retain` the server keeps it as the channel's last value, for those who subscribe later with `last=1`;
        None as the data reaches the subscribers, and the server forgets the value. With `acknowledged` this waits, for
        `timeout` seconds, until the server has taken it, and returns its place in the channel's history, or None if the
        channel has none. It raises what the server answers, `TimeoutError` without an answer in time, and
        `ConnectionError` if the connection is lost. If the server does neither, the code is `unsupported`.
        """
        if acknowledged:
            return _topics.publish_acknowledged(self, channel_id, data, retain, timeout)
        if retain:
            return _topics.retain(self, channel_id, data)
        return self._post(channel_id, MessageType.PUBLISH, data)

    def notify(self, channel_id: str, data: Any) -> str:
        """Sends a notification, which has no answer. See `publish`."""
        return self._post(channel_id, MessageType.NOTIFICATION, data)

    def _post(self, channel_id: str, message_type: MessageType, data: Any) -> str:
        native = self._native
        if native is None or self._dispatcher.is_cooperative or self._sends_in_its_own_way():
            return self.send_message(channel_id, message_type, data)
        return native.post(self.app_id, channel_id, message_type, data)

    def _sends_in_its_own_way(self) -> bool:
        """Returns whether a subclass or the program has replaced a method that sees all messages."""
        kind, own = type(self), self.__dict__
        return (
            kind._send_message is not _SEND_MESSAGE
            or kind.send_message is not _BUILD_MESSAGE
            or kind.request is not _REQUEST
            or not _SENDING.isdisjoint(own)
        )

    def ping(self, timeout: float = 2.0) -> bool:
        """Returns whether the server answers a ping. The published server does not."""
        try:
            answer = self.send_request("system", {"action": "ping"}, timeout)
        except IPCError:
            return False
        return answer is not None and answer.payload.get("status") == "pong"

    def flush(self, timeout: float = 5.0) -> bool:
        """Returns True once the server has processed everything that was sent before."""
        return self.ping(timeout)

    # Receiving

    def subscribe(
        self,
        channel_id: str,
        handler: Optional[Handler] = None,
        *,
        last: Optional[int] = None,
        since: Optional[Tuple[str, int]] = None,
        conflate: bool = False,
    ) -> bool:
        """Subscribes to a channel, and sets the handler of its messages.

        With `last` the newest publications that the server keeps come first: so many of the channel's history, or its
        last value. With `since`, a message's `position` or a pair of epoch and offset, all after it come first; the
        event `resumed` or `gap` says whether any are missing, see `on_event`. With `conflate` only the newest
        publication of the channel waits for a handler that is too slow, and its `offset` shows what was left out.

        Raises an `IPCError` with the code `unsupported` if the server does none of that, and `already_subscribed` if
        this client subscribes to the channel already, because what the server keeps is sent once.
        """
        if last is None and since is None and not conflate:
            return super().subscribe(channel_id, handler)
        _topics.subscribe(self, channel_id, handler, last, since, conflate)
        return True

    def subscribe_pattern(
        self, pattern: str, handler: Handler, *, last: Optional[int] = None, conflate: bool = False
    ) -> bool:
        """Subscribes to all channels that match, and calls `handler` with their messages, whose `channel_id` says
        where they were published.

        A pattern has tokens with dots between them: `*` stands for any one token, and `>` at the end for one or more,
        so that `prices.>` is all below `prices`, and `>` the whole application. The same pattern again replaces its
        handler. A message that matches several patterns is given to each handler. See `subscribe` for the rest, with
        `last` publications and the newest one of each channel.
        """
        _topics.check_last(last)
        self._dispatcher.patterns.subscribe(_topics.ready(self), pattern, handler, last, bool(conflate))
        return True

    def unsubscribe_pattern(self, pattern: str) -> bool:
        """Ends the subscription to a pattern, and removes its handler."""
        self._dispatcher.patterns.unsubscribe(_topics.ready(self), pattern)
        return True

    def create_channel_handler(self, channel_id: str, handler: Handler) -> None:
        """Sets the handler of the channel's messages. This does not subscribe."""
        self._set_handler(channel_id, handler)

    def remove_channel_handler(self, channel_id: str) -> None:
        """Removes the handler of the channel's messages."""
        self._remove_handler(channel_id)

    def wait_for_message(self, channel_id: str, timeout: float = 5.0) -> Optional[Message]:
        """Returns the next message on the channel that is not an answer, or None if none comes in time or the client is
        closed meanwhile.

        This does not subscribe. The channel's handler is called with the message all the same.
        """
        return self._dispatcher.wait_for_message(self._native, channel_id, timeout)

    def on_event(self, listener: Callable[[Event], Any]) -> None:
        """Calls `listener` with every change of the connection and of its subscriptions, see `Event`."""
        self._dispatcher.listeners.append((listener, contextvars.copy_context()))

    @property
    def missed(self) -> int:
        """The number of messages that were dropped because handlers were too slow."""
        native = self._native
        return 0 if native is None else native.missed + self._dispatcher.missed

    # Serving

    @overload
    def serve(
        self,
        channel_id: str,
        handler: AnyHandler,
        *,
        concurrency: int = 1,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> AnyHandler: ...
    @overload
    def serve(
        self,
        channel_id: str,
        handler: None = None,
        *,
        concurrency: int = 1,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> Callable[[AnyHandler], AnyHandler]: ...
    def serve(
        self,
        channel_id: str,
        handler: Any = None,
        *,
        concurrency: int = 1,
        prefetch: Optional[int] = None,
        queue_max: int = QUEUE_MAX,
    ) -> Any:
        """Becomes a worker of the channel: the return value of `handler` answers a request. Also a decorator.

        At most `concurrency` requests are handled at once, each by a thread, or by one event loop for an
        `async def` handler, in a copy of the context of whoever calls this. At most `queue_max` requests and 64 MiB of
        them wait; others are answered with `limit_exceeded`. An exception is logged and answered with
        `handler_failed`, a `HandlerError` as itself. The result for a notification is dropped. The published server has
        no workers: there this raises `TimeoutError`.

        A generator, or an asynchronous one, answers in parts. When nobody waits for an answer any more, what has not
        begun is dropped, an `async def` handler is cancelled, a generator is closed at its next `yield`, and
        `message.cancelled` is set: a plain function goes on, because nothing can end a thread.

        By default the server hands out all requests at once, which is best for short handlers. But then each waits at
        the worker that it was given to, even if another one has nothing to do. When a handler takes more than a
        millisecond, use `prefetch=0`: the server keeps what this worker has no hand free for, for whichever worker is
        free first, a new one included. `prefetch=n` lets this worker hold n more.
        """
        if handler is None:
            return lambda decorated: self.serve(
                channel_id, decorated, concurrency=concurrency, prefetch=prefetch, queue_max=queue_max
            )
        native = self._connection()
        service = self._services.make(channel_id, handler, concurrency, prefetch, queue_max)
        # Started before the server is asked: the first request may come with its answer.
        service.start()
        try:
            _hub.call(native.serve, channel_id, service.jobs, service.announced)
        except BaseException:
            service.finish()
            raise
        self._services.add(service)
        return handler

    def stop_serving(self, channel_id: str) -> None:
        """Ends being a worker of the channel. Requests that have arrived are still answered."""
        native = self._connection()
        try:
            _hub.call(native.stop_serving, channel_id)
        finally:
            self._services.remove(channel_id)

    # About itself

    def get_connection_info(self) -> Dict[str, Any]:
        """Returns the information that the published client has, and the counters of this one."""
        native = self._native
        return {
            "app_id": self.app_id,
            "connection_id": self.connection_id,
            "connected": self.connected,
            "host": self.host,
            "port": self.port,
            "subscribed_channels": list(self.message_handlers),
            "subscribed_patterns": self._dispatcher.patterns.names(),
            **({} if native is None else native.info()),
        }

    # Called by other parts of this package

    def _noted(self, event: Event) -> None:
        text = f": {event.error}" if event.error else ""
        if event.name == "connected":
            _alive.add(self)
            logger.info("Connection to server is back")
        elif event.name == "disconnected":
            _alive.discard(self)
            lost = event.error is None or event.error.code == "lost"
            logger.warning(
                "Connection to server lost%s (%d requests without an answer, at most %d messages)",
                "" if lost else text,
                event.unanswered,
                event.unconfirmed,
            )
        elif event.name == "closed":
            _alive.discard(self)
            if event.error is not None:
                self.last_error = event.error
                logger.error("the client does not reconnect%s", text)
            self._services.close()
            self._ended.set()
        else:
            logger.log(event.level, "%s", event)

    def _end_with_process(self) -> None:
        self.close(timeout=min(self.connection_timeout, EXIT_TIMEOUT))

    def _left_behind(self) -> None:
        native = self._native
        if native is not None:
            native.leave_to_parent()
        _alive.discard(self)
        # With the parent's id it would take over the parent's connection.
        self.connection_id = random_id()
        self._start_afresh()


#: The methods through which all messages go.
_SEND_MESSAGE = FrameworkClient._send_message
_BUILD_MESSAGE = FrameworkClient.send_message
_REQUEST = FrameworkClient.request
_SENDING = frozenset(("_send_message", "send_message", "request"))
