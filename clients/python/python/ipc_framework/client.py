"""The client: the published package's, with this project's Rust client inside.

A thread of its own calls handlers with what arrives, so a slow one delays other handlers, never the
connection: answers, heartbeats and what other threads send go on.
"""

from __future__ import annotations

import logging
import socket
import threading
import uuid
import weakref
from typing import Any, Callable, Dict, Optional, Set, Tuple, TypeVar, Union, overload

from . import _lifetime, _native
from ._dispatch import Dispatcher, Event
from ._serving import Services
from ._threads import wait_for
from .core import IPCClient, Message, MessageType
from .exceptions import ConnectionError, IPCError
from .server import _flag, _print_log
from .tls import Tls, given

logger = logging.getLogger("ipc_framework.client")

Handler = Callable[[Message], Any]
AnyHandler = TypeVar("AnyHandler", bound=Handler)
#: Clients that have a connection: as with the published package, nobody else has to keep them.
_alive: Set[FrameworkClient] = set()
AnyClient = TypeVar("AnyClient", bound="FrameworkClient")

#: Pauses in seconds before attempts to come back: the first one's bound, and the ceiling it doubles to.
RECONNECT_PAUSES = (0.05, 5.0)
#: How long an answer to `send_request_async` is waited for where the caller does not say.
ANSWER_TIMEOUT = 300.0
#: How long the end of the program may wait for what is to be sent or answered.
EXIT_TIMEOUT = 2.0


def check_address(host: Any, port: Any, unix: Optional[str]) -> None:
    """Raises `ConnectionError`, as what the published client says of an address that is none."""
    if unix is not None:
        return
    if not isinstance(host, str):
        raise ConnectionError(f"host is a name or an address, not {host!r}")
    if not isinstance(port, int) or not 0 < port < 1 << 16:
        raise ConnectionError(f"port is a number from 1 to 65535, not {port!r}")


class FrameworkClient(IPCClient):
    """A connection to a server, for any number of threads.

    Beyond the published constructor: `unix` is the path of a Unix socket to use in place of host and
    port; `token` the application's secret; `tls` is True to speak TLS, or an `ipc_framework.tls.Tls`;
    `connection_id` what the server knows the client by, random by default. A lost connection comes back by
    itself, with what was subscribed and served, unless `reconnect` is False; a pair of seconds sets its pauses.
    Meanwhile messages wait, up to `queue_bytes_max`. `verbose` prints what is logged, as the published
    client does; by default that is what the variable `IPC_FRAMEWORK_VERBOSE` says.
    """

    def __init__(
        self,
        app_id: str,
        host: str = "localhost",
        port: int = 8888,
        connection_timeout: float = 10.0,
        *,
        unix: Optional[str] = None,
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
        self.unix = unix
        self.token = token
        self.tls = tls
        if connection_id is not None:
            self.connection_id = connection_id
        self.reconnect = reconnect
        self.heartbeat = heartbeat
        self.queue_bytes_max = queue_bytes_max
        self.frame_bytes_max = frame_bytes_max
        if _flag("IPC_FRAMEWORK_VERBOSE") if verbose is None else verbose:
            _print_log()
        #: Why the last attempt to connect failed.
        self.last_error: Optional[IPCError] = None
        self._start_afresh()
        _lifetime.keep(self)

    def _start_afresh(self) -> None:
        """As one without a connection: a new object, or one in a forked child, whose parent has it."""
        self._native = None
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
        """Whether there is a connection just now."""
        native = self._native
        return native is not None and native.is_connected

    @connected.setter
    def connected(self, value: bool) -> None:
        # The published classes assign it; what counts is the connection.
        pass

    @property
    def socket(self) -> Optional[socket.socket]:
        """A duplicate of the connection's socket, for its addresses and options; None without a connection.

        What is read from it is lost for the client.
        """
        native = self._native
        descriptor = None if native is None else native.duplicate_socket()
        return None if descriptor is None else socket.socket(fileno=descriptor)

    @property
    def pending_responses(self) -> Dict[str, Message]:
        """Answers that nobody waited for, by the request's id: the last 16,384."""
        return self._dispatcher.unclaimed

    @property
    def response_handlers(self) -> Dict[str, Handler]:
        """Callbacks of `send_request_async` that were not called yet, by the request's id."""
        return self._dispatcher.callbacks

    @property
    def _response_lock(self) -> threading.Condition:
        return self._dispatcher.answered

    def connect(self) -> bool:
        """Connects to the server. False if that fails; `last_error` and the log say why.

        A client that is on its way back after a loss is waited for.
        """
        with self._life:
            native = self._native
            if native is not None:
                if native.wait_connected(self.connection_timeout):
                    return True
                if not native.is_closed:
                    return False
                self._forget()
            try:
                native = self._open()
            except IPCError as error:
                self.last_error = error
                logger.warning(f"Connection failed: {error}")
                return False
            self.last_error = None
            self._ended = threading.Event()
            self._native = native
            _alive.add(self)
            # One that nobody refers to while there is no connection does not come back.
            self._finalizer = weakref.finalize(self, native.abort)
            self._finalizer.atexit = False  # type: ignore[misc, unused-ignore]  # some stubs have no such slot
            self.receive_thread = self._dispatcher.start(native)
            logger.info(f"Connected to IPC server as {self.app_id}:{self.connection_id}")
            return True

    def _open(self) -> _native.Client:
        check_address(self.host, self.port, self.unix)
        return _native.Client(
            app_id=self.app_id,
            host=self.host,
            port=self.port,
            unix=self.unix,
            token=self.token,
            tls=given(self.tls),
            connection_id=self.connection_id,
            connect_timeout=self.connection_timeout,
            reconnect=RECONNECT_PAUSES if self.reconnect is True else self.reconnect or None,
            heartbeat=self.heartbeat,
            queue_bytes_max=self.queue_bytes_max,
            frame_bytes_max=self.frame_bytes_max,
            rings=False,
        )

    def disconnect(self) -> None:
        """Answers what is being served, sends what waits, and ends the connection.

        With no connection nothing is waited for. The client can be connected again.
        """
        self.close()

    def close(self, timeout: Optional[float] = None) -> bool:
        """As `disconnect`. False if not all was done within `timeout`, by default `connection_timeout`.

        In a function that serves a channel it returns at once, for it would wait for that function's answer.
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
            # Without a connection nothing is waited for, and what waits for one is lost.
            is_done = native.close(timeout) if native.is_connected else not native.info().get("waiting_bytes")
            self._forget()
        if not is_done:
            logger.warning("not all that was to be sent or answered has been; it is lost")
        logger.info("Disconnected from IPC server")
        return is_done

    def _forget(self) -> None:
        native, self._native = self._native, None
        _alive.discard(self)
        if native is not None:
            self._finalizer.detach()
            native.abort()
            # Handlers get what has come before, if they are quick about it.
            self._dispatcher.join(self.receive_thread)
            native.discard()
        self._services.close()
        self._ended.set()

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Blocks until the client is closed, by `close` or by the server for good: for programs that only serve."""
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
        """Sends a message as it is. All that this client sends goes through here, so that a subclass sees it."""
        native = self._connection()
        kind = message.message_type
        if kind is MessageType.REQUEST:
            # How this thread wants its request to be sent.
            send = self._asking.__dict__.pop("send", self._send_plain)
            send(native, message)
        elif kind is MessageType.SUBSCRIBE and message.payload == {"connection_id": self.connection_id}:
            native.subscribe(message.channel_id)
        elif kind is MessageType.UNSUBSCRIBE and message.payload == {"connection_id": self.connection_id}:
            native.unsubscribe(message.channel_id)
        elif kind is MessageType.SUBSCRIBE or kind is MessageType.UNSUBSCRIBE:
            # With a payload of the program's own, such as one that asks for an answer.
            self._send_plain(native, message)
        else:
            native.send(message)
        return message.message_id

    def _send_plain(self, native: _native.Client, message: Message) -> None:
        self._dispatcher.sent(message.message_id)
        native.send(message)

    def send_request(self, channel_id: str, data: Any, timeout: float = 5.0) -> Optional[Message]:
        """Asks, and waits for the answer: a message, or None if there is none in time.

        An error is an answer too: `payload["status"]` is then `"error"`, and `payload["code"]` says which.
        Raises `ConnectionError` if the connection is lost meanwhile; its `may_be_executed` says whether
        the request may have been carried out. May be called in handlers.
        """
        waiter = _native.Waiter()

        def send(native: _native.Client, message: Message) -> None:
            native.ask(message, timeout, waiter)

        message_id = self._request_by(send, channel_id, data)
        if waiter.is_used:
            return waiter.wait()
        # A subclass sends requests in a way of its own.
        return self._dispatcher.wait_unclaimed(message_id, timeout)

    def send_request_async(
        self,
        channel_id: str,
        data: Any,
        callback: Handler,
        timeout: float = ANSWER_TIMEOUT,
        on_error: Optional[Callable[[IPCError], Any]] = None,
    ) -> str:
        """Asks, and calls `callback` with the answer. Returns the request's id.

        If there is none, because the time is over or the connection lost, `on_error` is called, or it is logged.
        """

        expected = []

        def send(native: _native.Client, message: Message) -> None:
            # Before the request leaves, or its answer might come first.
            self._dispatcher.expect(message.message_id, callback, on_error)
            expected.append(message.message_id)
            try:
                native.ask(message, timeout, None)
            except BaseException:
                self._dispatcher.forget(message.message_id)
                raise

        message_id = self._request_by(send, channel_id, data)
        if message_id not in expected:
            # A subclass sends requests in a way of its own.
            early = self._dispatcher.expect(message_id, callback, on_error)
            if early is not None:
                callback(early)
        return message_id

    def _request_by(self, send: Callable[[_native.Client, Message], None], channel_id: str, data: Any) -> str:
        self._asking.send = send
        try:
            return self.request(channel_id, data)
        finally:
            self._asking.__dict__.pop("send", None)

    def notify(self, channel_id: str, data: Any) -> str:
        """Sends a notification: nothing is answered."""
        return self.send_message(channel_id, MessageType.NOTIFICATION, data)

    def ping(self, timeout: float = 2.0) -> bool:
        """Whether the server answers. The published server does not."""
        try:
            answer = self.send_request("system", {"action": "ping"}, timeout)
        except IPCError:
            return False
        return answer is not None and answer.payload.get("status") == "pong"

    def flush(self, timeout: float = 5.0) -> bool:
        """Returns True once the server has processed all that was sent before."""
        return self.ping(timeout)

    # Receiving

    def create_channel_handler(self, channel_id: str, handler: Handler) -> None:
        """Has `handler` called with the channel's messages. It does not subscribe."""
        with self._lock:
            self.message_handlers[channel_id] = handler

    def remove_channel_handler(self, channel_id: str) -> None:
        """Has the channel's messages handled no more."""
        with self._lock:
            self.message_handlers.pop(channel_id, None)

    def wait_for_message(self, channel_id: str, timeout: float = 5.0) -> Optional[Message]:
        """The next message on the channel that answers nothing, if one comes in time. It does not subscribe.

        The channel's handler is called with it all the same.
        """
        return self._dispatcher.wait_for_message(channel_id, timeout)

    def on_event(self, listener: Callable[[Event], Any]) -> None:
        """Has `listener` called with what happens to the connection."""
        self._dispatcher.listeners.append(listener)

    @property
    def missed(self) -> int:
        """How many messages were dropped because handlers were too slow for what came."""
        native = self._native
        return 0 if native is None else native.missed

    # Serving

    @overload
    def serve(self, channel_id: str, handler: AnyHandler, *, concurrency: int = 1) -> AnyHandler: ...
    @overload
    def serve(
        self, channel_id: str, handler: None = None, *, concurrency: int = 1
    ) -> Callable[[AnyHandler], AnyHandler]: ...
    def serve(self, channel_id: str, handler: Any = None, *, concurrency: int = 1) -> Any:
        """Becomes a worker of the channel: what `handler` returns is the answer to a request. Also a decorator.

        At most `concurrency` requests are handled at once, each by a thread; those of an `async def` handler
        by one event loop. An exception is logged and answered as `handler_failed`. The result of a
        notification is dropped. The published server has no workers: there it raises `TimeoutError`.
        """
        if handler is None:
            return lambda decorated: self.serve(channel_id, decorated, concurrency=concurrency)
        native = self._connection()
        self._services.add(channel_id, handler, concurrency)
        try:
            native.serve(channel_id, concurrency)
        except BaseException:
            self._services.remove(channel_id)
            raise
        return handler

    def stop_serving(self, channel_id: str) -> None:
        """Is a worker of the channel no longer. What it has is still answered."""
        self._connection().stop_serving(channel_id)
        self._services.remove(channel_id)

    # About itself

    def get_connection_info(self) -> Dict[str, Any]:
        """What the published client tells, and the counters of this one."""
        native = self._native
        return {
            "app_id": self.app_id,
            "connection_id": self.connection_id,
            "connected": self.connected,
            "host": self.host,
            "port": self.port,
            "subscribed_channels": list(self.message_handlers),
            **({} if native is None else native.info()),
        }

    # What others of this package call

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
                logger.error("the connection does not come back%s", text)
            self._services.close()
            self._ended.set()
        else:
            level = logging.INFO if event.name in ("leaving", "unreachable") else logging.WARNING
            logger.log(level, "%s%s", event.name, text)

    def _end_with_process(self) -> None:
        self.close(timeout=min(self.connection_timeout, EXIT_TIMEOUT))

    def _left_behind(self) -> None:
        native = self._native
        if native is not None:
            native.leave_to_parent()
        _alive.discard(self)
        # As the parent's it would take the parent's place at the server.
        self.connection_id = str(uuid.uuid4())
        self._start_afresh()

