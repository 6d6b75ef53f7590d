"""The server: the published classes, with the Rust server behind them."""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import time
import types
import weakref
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, Sequence, TypedDict, Union

from . import _deadlines, _hub, _native, _running
from . import _lifetime as _lifetime  # For the end of the process, and for forked children.
from ._logs import flag, print_log
from ._parts import send_async_parts, send_parts, send_parts_in_turns
from ._registry import InContext, ServerApplication, ServerChannel, ServerConnections, check_id
from ._threads import LINGER, Coroutines, Thread, wait_for
from .core import Application, Channel, ConnectionManager, Handler, IPCServer, Message, MessageType, failure_text
from .exceptions import ConnectionError, HandlerError

logger = logging.getLogger("ipc_framework")

#: Members of the payload of a subscribe that is no plain one.
_TOPICAL = frozenset(("pattern", "last", "since", "conflate"))
_GENERATORS = (types.GeneratorType, types.AsyncGeneratorType)


class Limits(TypedDict, total=False):
    """Limits of what clients may use, in seconds and bytes. Omitted limits keep their defaults."""

    frame_bytes_max: int
    handshake_timeout: float
    idle_timeout: Optional[float]
    request_timeout: Optional[float]
    queue_high_water_bytes: int
    slow_consumer_grace: float
    memory_bytes_max: int
    channels_max: int
    channels_per_connection_max: int
    subscriptions_per_connection_max: int
    services_per_connection_max: int
    pending_per_connection_max: int
    pending_max: int
    drain_timeout: float


class _Channels(TypedDict):
    app: str
    channel: str


class History(_Channels, total=False):
    """The channels of an application of which the server keeps the newest publications, and how many.

    `channel` is an id, or a pattern as clients subscribe to it. At most `messages` (1,000) and `bytes` (4 MiB) of a
    channel are kept, for `age` seconds or, by default, as long as there is room. Of several that match a channel the
    first one counts.
    """

    messages: int
    bytes: int
    age: Optional[float]


class FrameworkServer(IPCServer):
    """A server that listens on TCP, on a Unix socket, or on both.

    The event loop is Rust and has a thread of its own. Handlers run on that thread, one after
    another, or on ``workers`` threads; ``async def`` handlers run on an asyncio loop.
    """

    def __init__(
        self,
        host: Optional[str] = "localhost",
        port: int = 8888,
        max_connections: int = 100,
        *,
        unix: Union[str, "os.PathLike[str]", None] = None,
        unix_mode: int = 0o600,
        token: Optional[str] = None,
        tokens: Optional[Mapping[str, str]] = None,
        insecure: Optional[bool] = None,
        workers: int = 0,
        queue_max: int = 65_536,
        spin: Optional[float] = None,
        limits: Optional[Limits] = None,
        histories: Sequence[History] = (),
        retained_max: Optional[int] = None,
        daemon: Optional[bool] = None,
        verbose: Optional[bool] = None,
    ) -> None:
        """
        :param host: name or address to listen on; ``None`` for no TCP
        :param port: 0 takes a free port, which is in ``port`` after :meth:`start`
        :param unix: path of a Unix socket, in addition to TCP or instead of it
        :param token: secret that every client must send; ``tokens`` has one for each application
        :param insecure: listen without a token on addresses that other machines can reach; by
            default taken from the variable ``IPC_FRAMEWORK_INSECURE``
        :param workers: threads for handlers; 0 runs them on the loop's thread
        :param queue_max: messages that may wait for these threads; further requests are answered with
            ``limit_exceeded``
        :param spin: seconds for which the loop stays awake after work; ``math.inf`` for always, 0
            for never
        :param histories: channels whose newest publications are kept, for those who subscribe with ``last`` or
            ``since``, and for subscribers that reconnect; see :class:`History`
        :param retained_max: bytes of all last values together, which publications with ``retain`` leave, 64 MiB by
            default
        :param daemon: let the process end while the server runs. By default it may end, as with
            the published server, unless ``start()`` is the last line of the program
        :param verbose: print what the published server prints; by default taken from the variable
            ``IPC_FRAMEWORK_VERBOSE``
        """
        self._apps: Dict[str, ServerApplication] = {}
        self._native: Optional[_native.Server] = None
        self._manager: ConnectionManager = ServerConnections(self)
        super().__init__(host, port)  # type: ignore[arg-type]
        self.max_connections = max_connections
        self.server_thread: Optional[Thread] = None
        self.server_socket: None = None
        self._daemon = daemon
        self._holds_process = False
        self._options: Dict[str, Any] = {
            "unix": None if unix is None else os.fspath(unix),
            "unix_mode": unix_mode,
            "token": token,
            "tokens": dict(tokens or {}),
            "insecure": flag("IPC_FRAMEWORK_INSECURE") if insecure is None else insecure,
            "spin": spin,
            "histories": list(histories),
            "retained_max": retained_max,
        }
        self._limits: Dict[str, Any] = dict(limits or {})
        self._workers = workers
        self._queue_max = queue_max
        self._threads: List[Thread] = []
        self._forks = _running.forks
        self._coroutines: Optional[Coroutines] = None
        #: Where the parts of plain generators are made, one after another, if there are no threads for handlers.
        self._generators: Optional[Coroutines] = None
        self._complained: Dict[int, Handler] = {}
        if flag("IPC_FRAMEWORK_VERBOSE") if verbose is None else verbose:
            print_log()

    # Life

    def start(self) -> None:
        """Starts to listen and to serve on threads of its own, and returns at once."""
        with self._lock:
            if self.running:
                return
            # Handlers are greenlets where threads are, and a real thread cannot call them.
            worker_count = max(self._workers, 1) if _hub.is_cooperative() else self._workers
            options = {
                **self._options,
                "host": self.host,
                "port": self.port,
                "max_connections": self.max_connections,
                "workers": worker_count,
                "queue_max": self._queue_max,
            }
            native = _native.Server(options, self._limits, self._routed(), weakref.ref(self))
            if self.host is not None:
                self.port = native.port
            # Set before the loop runs, because clients that reconnect send requests at once.
            for application in self._apps.values():
                application._set_handlers(native)
            workers = [Thread(f"ipc-worker-{n}", lambda: self._work(native)) for n in range(worker_count)]
            loops = [Coroutines("ipc-asyncio"), Coroutines("ipc-generators")]
            self._threads, (self._coroutines, self._generators) = workers, loops
            self.server_thread = Thread("ipc-server", lambda: self._serve(native, workers, loops))
            self._native = native
            self.running = True
            self._forks = _running.forks
            is_last = _running.is_last_line(sys._getframe(1))
            self._holds_process = is_last if self._daemon is None else not self._daemon
            _running.keep(self)
            for thread in (self.server_thread, *workers):
                thread.start()
            applications = list(self._apps.values())
        # Not under the lock: a handler may wait for the lock, and the loop waits for the handler.
        self._watch_if_wanted()
        for application in applications:
            application._install(native)
        logger.info("IPC Server started on %s:%s", self.host, self.port)

    def _serve(self, native: _native.Server, workers: List[Thread], loops: List[Coroutines]) -> None:
        try:
            _hub.call(native.run)
        except Exception:
            logger.exception("the server's loop failed")
        finally:
            deadline = time.monotonic() + LINGER
            for worker in workers:
                worker.leave(deadline - time.monotonic())
            for loop in loops:
                loop.stop()
            self._ended(native)

    def _work(self, native: _native.Server) -> None:
        for job in _hub.each(native.take):
            _, _, origin, _ = job
            try:
                self._run(*job)
                origin.returned()
            except BaseException as error:
                # Errors of handlers are caught elsewhere; this one may come from logging. The thread goes on.
                origin.fail(failure_text(error))
            # Released now, not only when the next job comes.
            del job, origin

    def _ended(self, native: _native.Server) -> None:
        with self._lock:
            if self._native is not native:
                return
            self.running, self._native = False, None
        _running.forget(self)
        logger.info("IPC Server stopped")

    def stop(self) -> None:
        """Drains and ends: requests in flight are answered, and all messages sent. Called by a
        handler it only starts that. A handler that does not return is left behind after the
        limit `drain_timeout`."""
        native, thread = self._native, self.server_thread
        if native is None or thread is None:
            return
        native.stop()
        if not self._is_own_thread() and not thread.leave(native.drain_timeout + 3 * LINGER):
            self._ended(native)

    def _is_own_thread(self) -> bool:
        """Returns whether this thread runs handlers."""
        if any(loop is not None and loop.is_current() for loop in (self._coroutines, self._generators)):
            return True
        return threading.current_thread() in (self.server_thread, *self._threads)

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until the server has ended. Returns whether it has. Ctrl-C interrupts the wait."""
        thread = self.server_thread
        if thread is None:
            return True
        return wait_for(thread.ended, timeout)

    def serve_forever(self) -> None:
        """Starts, and serves until Ctrl-C, SIGTERM or :meth:`stop`; then it drains. A second signal ends the process
        at once. Where the program has its own handler of SIGTERM, and on other threads than the main one, SIGTERM is
        left to the program."""
        try:
            with _running.terminable():
                self.start()
                self.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop()

    def __enter__(self) -> FrameworkServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _left_behind(self) -> None:
        """Leaves the server and its threads to the parent, in a forked child."""
        self._lock = threading.RLock()
        if self._native is not None:
            # Dropping it could wait for a lock that a thread of the parent held.
            _running.leak(self._native, self._coroutines, self._generators)
        self._native = self._coroutines = self._generators = self.server_thread = None
        self._threads = []
        self.running = False

    # Applications

    @property
    def applications(self) -> Dict[str, Application]:  # type: ignore[override, unused-ignore]  # older mypy
        """All applications by id, including those that clients created."""
        found: Dict[str, Application] = dict(self._apps)
        native = self._native
        if native is not None:
            for app_id, told in native.list_applications().items():
                if app_id not in found:
                    found[app_id] = ServerApplication(self, app_id, told["name"])
        return found

    @applications.setter
    def applications(self, _: Dict[str, Application]) -> None:
        """Ignores the empty value that the base class sets."""

    def create_application(self, app_id: str, name: Optional[str] = None) -> Application:
        check_id(app_id)
        with self._lock:
            application = self._apps.get(app_id)
            if application is not None:
                return application
            application = self._apps[app_id] = ServerApplication(self, app_id, name)
            native = self._native
        if native is not None:
            native.create_application(app_id, application.name)
        return application

    def get_application(self, app_id: str) -> Optional[Application]:
        application, native = self._apps.get(app_id), self._native
        if application is None and native is not None and native.has_application(app_id):
            return ServerApplication(self, app_id)
        return application

    def list_applications(self) -> Dict[str, Dict[str, Any]]:
        """Returns information about all applications."""
        native = self._native
        if native is not None:
            return native.list_applications()
        return {
            app_id: {
                "name": application.name,
                "channels": application.list_channels(),
                "connections": 0,
                "created_at": application.created_at,
                "last_activity": application.last_activity,
            }
            for app_id, application in list(self._apps.items())
        }

    def list_channels(self, app_id: str) -> Dict[str, Dict[str, Any]]:
        """Returns information about an application's channels."""
        native, application = self._native, self._apps.get(app_id)
        if native is not None:
            return native.list_channels(app_id)
        return {
            channel_id: {"subscribers": 0, "created_at": channel.created_at}
            for channel_id, channel in (list(application._own.items()) if application else ())
        }

    def get_stats(self) -> Dict[str, Any]:
        """Returns totals, and all counters while the server runs."""
        native = self._native
        told = {} if native is None else native.stats()
        return {
            "total_connections": 0,
            **told,
            "running": self.running,
            "host": self.host,
            "port": self.port,
            "total_applications": told.get("total_applications", len(self._apps)),
            "max_connections": self.max_connections,
        }

    # Connections

    @property
    def connection_manager(self) -> Any:
        """The connections. A manager of the program's own is told about new and closed connections."""
        return self._manager

    @connection_manager.setter
    def connection_manager(self, manager: Any) -> None:
        # The base class sets a plain one, which would stay empty.
        if type(manager) is not ConnectionManager:
            self._manager = manager
            self._watch_if_wanted()

    @property
    def client_sockets(self) -> Dict[str, _native.Connection]:
        """All connections by their ids."""
        native = self._native
        return {} if native is None else {one.connection_id: one for one in native.connections()}

    @property
    def socket_to_connection_id(self) -> Dict[_native.Connection, str]:
        """The ids of all connections."""
        return {connection: id for id, connection in self.client_sockets.items()}

    def _watch_if_wanted(self) -> None:
        own, native = isinstance(self._manager, ServerConnections), self._native
        if native is not None:
            native.set_watched(not own or logger.isEnabledFor(logging.INFO))

    def _watch(self, has_come: bool, connection: _native.Connection) -> None:
        """Notes a new or closed connection. Called on the loop's thread."""
        id, app_id = connection.connection_id, connection.app_id
        manager = self._manager
        try:
            if has_come:
                logger.info("Client %s connected to application %s", id, app_id)
                if not isinstance(manager, ServerConnections):
                    manager.add_connection(id, connection, app_id)
            else:
                logger.info("Client %s disconnected", id)
                if hasattr(manager, "remove_connection") and not isinstance(manager, ServerConnections):
                    manager.remove_connection(id)
        except Exception:
            logger.exception("the connection manager failed")

    # Messages

    def send_to_connection(self, connection: Any, message: Message) -> None:
        """Sends a message to a connection. If that is ``None``, a response still reaches the
        requester, by its ``reply_to``."""
        native = self._native
        if native is None:
            logger.warning("nothing is sent: the server does not run")
        elif connection is not None and not isinstance(connection, _native.Connection):
            logger.warning("nothing is sent: %r is no connection of this server", connection)
        elif not native.send(connection, message):
            logger.warning(
                "nothing is sent: there is no connection, and reply_to=%r is no request that waits "
                "for its answer; make responses by message.create_response",
                message.reply_to,
            )

    def publish(self, app_id: str, channel_id: str, data: Any, *, retain: bool = False) -> None:
        """Publishes data to the subscribers of a channel.

        With ``retain`` it is kept as the channel's last value, for clients that subscribe later with ``last=1``;
        ``None`` reaches the subscribers, and the value is forgotten. If there is no room for it, that is logged."""
        native = self._native
        if native is None:
            raise ConnectionError("nothing is published: the server does not run; call start() first")
        check_id(app_id)
        check_id(channel_id)
        message = Message("", app_id, channel_id, MessageType.PUBLISH, data, 0)
        native.publish(app_id, channel_id, message, bool(retain))

    def broadcast_to_application(self, app_id: str, message: Message) -> None:
        """Sends a message to all connections of an application."""
        native = self._native
        if native is None:
            return
        if self._is_overridden("send_to_connection"):
            for connection in native.connections_of(app_id):
                self.send_to_connection(connection, message)
        else:
            native.broadcast(app_id, message)

    def _channel_of(self, application: Application, channel_id: str) -> Optional[Channel]:
        channel = application.get_channel(channel_id)
        if channel is None and isinstance(application, ServerApplication):
            # The server makes it after this has let the message pass.
            return ServerChannel(application, channel_id)
        return channel

    def _call_handler(self, message: Message, channel: Channel) -> bool:
        handler = channel.get_handler(message.message_type)
        origin = getattr(message, "_origin", None)
        if handler is None:
            if origin is not None:
                origin.pass_on()
            return False
        if not isinstance(channel, ServerChannel):
            return self._run_handler(handler, message, origin, False)
        context = channel._context(message.message_type).copy()
        return context.run(self._run_handler, handler, message, origin, channel._serves)

    def _handle_publish(self, message: Message, channel: Channel) -> bool:
        native = self._native
        if native is None:
            return True
        if not isinstance(channel, ServerChannel) or self._is_overridden("send_to_connection"):
            for connection_id in channel.get_subscribers():
                connection = native.connection_of(channel.app_id, connection_id)
                if connection is not None:
                    self.send_to_connection(connection, message)
        else:
            native.publish(channel.app_id, channel.channel_id, message, message.retained)
        return True

    def _change_subscription(self, message: Message, change: Callable[[str], None]) -> bool:
        """Changes the sender's own subscription at once, so that it receives what an override sends
        next, and then lets the server itself check and acknowledge the message."""
        payload = message.payload if isinstance(message.payload, dict) else {}
        named = payload.get("connection_id")
        origin = getattr(message, "_origin", None)
        # A plain subscription would stand in the way of one to a pattern, or to what is kept.
        if origin is None or (origin.connection_id == named and _TOPICAL.isdisjoint(payload)):
            if not named:
                return False
            change(named)
        if origin is not None:
            origin.pass_on()
        return True

    def _is_overridden(self, name: str) -> bool:
        method = getattr(self, name)
        return getattr(method, "__func__", method) is not getattr(FrameworkServer, name)

    def _routed(self) -> List[str]:
        """Returns the types of messages that Python must see because a subclass handles them."""
        if self._is_overridden("route_message"):
            return [one.value for one in MessageType]
        routed = []
        if self._is_overridden("_handle_publish") or self._is_overridden("send_to_connection"):
            routed.append(MessageType.PUBLISH.value)
        if self._is_overridden("_handle_subscribe"):
            routed.append(MessageType.SUBSCRIBE.value)
        if self._is_overridden("_handle_unsubscribe"):
            routed.append(MessageType.UNSUBSCRIBE.value)
        return routed

    def _run(self, handler: Optional[InContext], message: Message, origin: _native.Origin, serves: bool) -> None:
        """Handles a message on the loop's thread or on a worker, by its handler or by an overridden
        `route_message`. What one message sets in its context, the next one does not see."""
        if handler is not None:
            function, context = handler
            context = context.copy()
            remaining = origin.remaining
            if remaining is not None:
                context.run(_deadlines.begin, remaining)
            context.run(self._run_handler, function, message, origin, serves)
        else:
            try:
                # An override that returns nothing has taken the message.
                if contextvars.copy_context().run(self.route_message, message) is False:
                    origin.fail("the server turned this message away")
            except BaseException as error:
                self._fail(error, message, origin)
        _running.end_if_forked(self._forks)

    def _run_handler(
        self, handler: Handler, message: Message, origin: Optional[_native.Origin], serves: bool
    ) -> bool:
        """Calls a handler. If the handler does not answer itself, ``origin`` answers for it."""
        try:
            result = handler(message)
            kind = type(result)
            if kind is types.CoroutineType:
                self._start(self._coroutines, result, message, origin, serves)
            elif serves and origin is not None and kind in _GENERATORS:
                self._stream(result, message, origin)
            elif serves and origin is not None:
                origin.reply(result)
            elif result is not None:
                self._complain(handler)
        except BaseException as error:
            return self._fail(error, message, origin)
        return True

    def _stream(self, parts: Any, message: Message, origin: _native.Origin) -> None:
        """Answers with the parts of a generator."""
        loop = self._coroutines if type(parts) is types.AsyncGeneratorType else self._generators
        assert loop is not None
        if loop is self._coroutines:
            self._start(loop, send_async_parts(parts, origin, loop.part_sent), message, origin, False)
        elif self._threads:
            send_parts(parts, origin)
        else:
            # The loop's thread goes on meanwhile.
            self._start(loop, send_parts_in_turns(parts, origin, loop.part_sent), message, origin, False)

    def _start(
        self,
        coroutines: Optional[Coroutines],
        coroutine: Coroutine[Any, Any, Any],
        message: Message,
        origin: Optional[_native.Origin],
        serves: bool,
    ) -> None:
        assert coroutines is not None
        if origin is not None:
            origin.hold()
        coroutines.start(self._finish(coroutine, message, origin, serves), origin)

    async def _finish(
        self,
        coroutine: Coroutine[Any, Any, Any],
        message: Message,
        origin: Optional[_native.Origin],
        serves: bool,
    ) -> None:
        try:
            result = await coroutine
            if serves and origin is not None:
                origin.reply(result)
        except BaseException as error:
            self._fail(error, message, origin)
        finally:
            _running.end_if_forked(self._forks)
            if origin is not None:
                origin.release()

    def _fail(
        self, error: BaseException, message: Message, origin: Optional[_native.Origin]
    ) -> bool:
        _running.end_if_forked(self._forks, error)
        if origin is not None and origin.is_cancelled and type(error).__name__ == "CancelledError":
            # A coroutine has ended because nobody waits for it any more.
            return True
        if isinstance(error, HandlerError) and origin is not None:
            # The application's own error, which is none of its handler.
            origin.refuse(error.code, error.text, error.details)
            return True
        where = f"{message.app_id}/{message.channel_id}"
        logger.error("the handler of %s failed on a %s", where, message.message_type.value, exc_info=error)
        if origin is not None:
            origin.fail(failure_text(error))
        return False

    def _complain(self, handler: Handler) -> None:
        """Warns once per handler that its return value is ignored, because it may be meant as the answer."""
        if id(handler) not in self._complained and len(self._complained) < 1_000:
            self._complained[id(handler)] = handler
            logger.debug(
                "%r returned a value, which is ignored: with set_handler the handler itself answers by "
                "send_to_connection; channel.serve sends what a handler returns",
                handler,
            )


__all__ = ["ConnectionError", "FrameworkServer", "History", "Limits"]
