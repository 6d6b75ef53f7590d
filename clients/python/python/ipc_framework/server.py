"""The server: the published classes, with the Rust server behind them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import types
from typing import Any, Callable, Coroutine, Dict, List, Mapping, Optional, TypedDict, Union

from . import _native, _running
from .core import Application, Channel, ConnectionManager, H, Handler, IPCServer, Message, MessageType
from .exceptions import ConnectionError

logger = logging.getLogger("ipc_framework")

#: Types whose handlers :meth:`Channel.set_handler` sets. The others are carried out by the server.
HANDLED = (MessageType.REQUEST, MessageType.NOTIFICATION, MessageType.RESPONSE)


class Limits(TypedDict, total=False):
    """What clients may use. Seconds and bytes; what is left out keeps its default."""

    frame_bytes_max: int
    handshake_timeout: float
    idle_timeout: Optional[float]
    request_timeout: float
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
        spin: Optional[float] = None,
        limits: Optional[Limits] = None,
        daemon: Optional[bool] = None,
        verbose: Optional[bool] = None,
    ) -> None:
        """
        :param host: name or address to listen on; ``None``: no TCP
        :param port: 0 takes a free one, which ``port`` tells after :meth:`start`
        :param unix: path of a Unix socket, beside TCP or instead of it
        :param token: asked of every client; ``tokens`` asks by application
        :param insecure: listen where other machines reach it, without a token; by default what
            the variable ``IPC_FRAMEWORK_INSECURE`` says
        :param workers: threads for handlers; 0: the loop's own
        :param spin: seconds the loop stays awake after work; ``math.inf``: always; 0: never
        :param daemon: whether the process may end while the server runs. By default it may, as
            with the published server, but for a program whose very last line is ``start()``
        :param verbose: log to standard output what the published server prints; by default what
            the variable ``IPC_FRAMEWORK_VERBOSE`` says
        """
        self._apps: Dict[str, _Application] = {}
        self._native: Optional[_native.Server] = None
        self._manager: ConnectionManager = _Connections(self)
        super().__init__(host, port)  # type: ignore[arg-type]
        self.max_connections = max_connections
        self.server_thread: Optional[_Thread] = None
        self.server_socket: None = None
        self._daemon = daemon
        self._holds_process = False
        self._options: Dict[str, Any] = {
            "unix": None if unix is None else os.fspath(unix),
            "unix_mode": unix_mode,
            "token": token,
            "tokens": dict(tokens or {}),
            "insecure": _flag("IPC_FRAMEWORK_INSECURE") if insecure is None else insecure,
            "spin": spin,
        }
        self._limits: Dict[str, Any] = dict(limits or {})
        self._workers = workers
        self._threads: List[_Thread] = []
        self._coroutines: Optional[_Coroutines] = None
        self._complained: Dict[int, Handler] = {}
        if _flag("IPC_FRAMEWORK_VERBOSE") if verbose is None else verbose:
            _print_log()

    # Life

    def start(self) -> None:
        """Listens, and serves on threads of its own: it returns at once."""
        with self._lock:
            if self.running:
                return
            options = {
                **self._options,
                "host": self.host,
                "port": self.port,
                "max_connections": self.max_connections,
            }
            native = _native.Server(
                options,
                self._limits,
                self._routed(),
                self._workers,
                self._run_handler,
                self._run_route,
                self._watch,
            )
            if self.host is not None:
                self.port = native.port
            self._coroutines = _Coroutines()
            self.server_thread = _Thread("ipc-server", lambda: self._run(native))
            self._threads = [_Thread(f"ipc-worker-{n}", native.work) for n in range(self._workers)]
            self._native = native
            self.running = True
            is_last = _running.is_last_line(sys._getframe(1))
            self._holds_process = is_last if self._daemon is None else not self._daemon
            _running.keep(self)
            for thread in (self.server_thread, *self._threads):
                thread.start()
            self._watch_if_wanted()
            for application in self._apps.values():
                application._install()
        logger.info("IPC Server started on %s:%s", self.host, self.port)

    def _run(self, native: _native.Server) -> None:
        try:
            native.run()
        except Exception:
            logger.exception("the server's loop failed")
        finally:
            if self._native is native:
                self.running = False
                self._native = None

    def stop(self) -> None:
        """Drains and ends: what is in flight is answered, and everything sent. Called by a
        handler it begins that and returns."""
        native, threads = self._native, [self.server_thread, *self._threads]
        if native is None:
            return
        native.stop()
        coroutines = self._coroutines
        here = threading.current_thread()
        if here in threads or (coroutines is not None and here is coroutines.thread):
            return
        for thread in threads:
            if thread is not None:
                thread.ended.wait()
        if coroutines is not None:
            coroutines.stop()
        with self._lock:
            if self._native is native:
                self.running, self._native = False, None
        _running.forget(self)
        logger.info("IPC Server stopped")

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Waits until the server has ended; returns whether it has. Ctrl-C interrupts it."""
        thread = self.server_thread
        if thread is None:
            return True
        return thread.ended.wait(timeout)

    def serve_forever(self) -> None:
        """Starts, and serves until Ctrl-C or :meth:`stop`."""
        self.start()
        try:
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
        """This is a forked child: the server and its threads are the parent's."""
        self._lock = threading.RLock()
        if self._native is not None:
            # Dropped, it could wait for a lock that a thread of the parent's held.
            _running.leak(self._native, self._coroutines)
        self._native = self._coroutines = self.server_thread = None
        self._threads = []
        self.running = False

    # Applications

    @property
    def applications(self) -> Dict[str, Application]:  # type: ignore[override]
        """All applications by id, those that clients brought into being too."""
        found: Dict[str, Application] = dict(self._apps)
        if self._native is not None:
            for app_id, told in self._native.list_applications().items():
                if app_id not in found:
                    found[app_id] = _Application(self, app_id, told["name"], told)
        return found

    @applications.setter
    def applications(self, _: Dict[str, Application]) -> None:
        """The base class begins with none."""

    def create_application(self, app_id: str, name: Optional[str] = None) -> Application:
        _check_id(app_id)
        with self._lock:
            application = self._apps.get(app_id)
            if application is None:
                application = self._apps[app_id] = _Application(self, app_id, name)
                if self._native is not None:
                    self._native.create_application(app_id, application.name)
            return application

    def get_application(self, app_id: str) -> Optional[Application]:
        application = self._apps.get(app_id)
        if application is None and self._native is not None:
            if self._native.has_application(app_id):
                return _Application(self, app_id)
        return application

    def list_applications(self) -> Dict[str, Dict[str, Any]]:
        """What is known of all applications."""
        if self._native is not None:
            return self._native.list_applications()
        return {
            app_id: {
                "name": application.name,
                "channels": application.list_channels(),
                "connections": 0,
                "created_at": application.created_at,
                "last_activity": application.last_activity,
            }
            for app_id, application in self._apps.items()
        }

    def list_channels(self, app_id: str) -> Dict[str, Dict[str, Any]]:
        """What is known of an application's channels."""
        if self._native is not None:
            return self._native.list_channels(app_id)
        application = self._apps.get(app_id)
        return {
            channel_id: {"subscribers": 0, "created_at": channel.created_at}
            for channel_id, channel in (application._own if application else {}).items()
        }

    def get_stats(self) -> Dict[str, Any]:
        """Totals, and while it runs all counters."""
        told = {} if self._native is None else self._native.stats()
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
        """Who is connected. One of your own is told who comes and who goes."""
        return self._manager

    @connection_manager.setter
    def connection_manager(self, manager: Any) -> None:
        # The base class begins with a plain one, which knows nobody.
        if type(manager) is not ConnectionManager:
            self._manager = manager
            self._watch_if_wanted()

    @property
    def client_sockets(self) -> Dict[str, _native.Connection]:
        """All connections by their ids."""
        if self._native is None:
            return {}
        return {connection.connection_id: connection for connection in self._native.connections()}

    @property
    def socket_to_connection_id(self) -> Dict[_native.Connection, str]:
        """The ids of all connections."""
        return {connection: id for id, connection in self.client_sockets.items()}

    def _watch_if_wanted(self) -> None:
        own = isinstance(self._manager, _Connections)
        if self._native is not None:
            self._native.set_watched(not own or logger.isEnabledFor(logging.INFO))

    def _watch(self, has_come: bool, connection: _native.Connection) -> None:
        """Somebody came or went; called on the loop's thread."""
        id, app_id = connection.connection_id, connection.app_id
        manager = self._manager
        try:
            if has_come:
                logger.info("Client %s connected to application %s", id, app_id)
                if not isinstance(manager, _Connections):
                    manager.add_connection(id, connection, app_id)
            else:
                logger.info("Client %s disconnected", id)
                if hasattr(manager, "remove_connection") and not isinstance(manager, _Connections):
                    manager.remove_connection(id)
        except Exception:
            logger.exception("the connection manager failed")

    # Messages

    def send_to_connection(self, connection: Any, message: Message) -> None:
        """Sends a message to a connection. Where that is ``None``, a response still reaches
        whoever asked, by its ``reply_to``."""
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

    def route_message(self, message: Message) -> bool:
        """Brings a message to where it should go; returns whether anybody took it. A subclass
        that overrides it sees every message first, but for those on ``system``."""
        application = self.get_application(message.app_id)
        channel = application.get_channel(message.channel_id) if application else None
        if channel is None:
            return False
        if message.message_type is MessageType.PUBLISH:
            return self._handle_publish(message, channel)
        if message.message_type is MessageType.SUBSCRIBE:
            return self._handle_subscribe(message, channel)
        if message.message_type is MessageType.UNSUBSCRIBE:
            return self._handle_unsubscribe(message, channel)
        handler = channel.get_handler(message.message_type)
        origin = message.__dict__.get("_origin")
        if handler is None:
            if origin is not None:
                origin.pass_on()
            return False
        serves = isinstance(channel, _Channel) and channel._serves
        return self._run_handler(handler, message, origin, serves)

    def _handle_publish(self, message: Message, channel: Channel) -> bool:
        native = self._native
        if native is None:
            return True
        if not isinstance(channel, _Channel) or self._is_overridden("send_to_connection"):
            for connection_id in channel.get_subscribers():
                connection = native.connection_of(channel.app_id, connection_id)
                if connection is not None:
                    self.send_to_connection(connection, message)
        else:
            native.publish(channel.app_id, channel.channel_id, message)
        return True

    def _handle_subscribe(self, message: Message, channel: Channel) -> bool:
        return self._change_subscription(message, channel.add_subscriber)

    def _handle_unsubscribe(self, message: Message, channel: Channel) -> bool:
        return self._change_subscription(message, channel.remove_subscriber)

    def _change_subscription(self, message: Message, change: Callable[[str], None]) -> bool:
        """A client's own is carried out at once, so that what an override sends next is heard,
        and then by the server itself, which judges and acknowledges it."""
        named = message.payload.get("connection_id") if isinstance(message.payload, dict) else None
        origin = message.__dict__.get("_origin")
        if origin is None or origin.connection_id == named:
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
        """The types of messages that Python has to see because a subclass deals with them."""
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

    def _run_handler(
        self, handler: Handler, message: Message, origin: Optional[_native.Origin], serves: bool
    ) -> bool:
        """Calls a handler; what it does not answer by itself is answered by ``origin``."""
        try:
            result = handler(message)
            if type(result) is types.CoroutineType:
                assert self._coroutines is not None
                self._coroutines.start(self._finish(result, message, origin, serves))
            elif serves and origin is not None:
                origin.reply(result)
            elif result is not None:
                self._complain(handler)
        except BaseException as error:
            return self._fail(error, message, origin)
        return True

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

    def _run_route(self, message: Message, origin: _native.Origin) -> None:
        try:
            if not self.route_message(message):
                origin.fail("the server turned this message away")
        except BaseException as error:
            self._fail(error, message, origin)

    def _fail(
        self, error: BaseException, message: Message, origin: Optional[_native.Origin]
    ) -> bool:
        where = f"{message.app_id}/{message.channel_id}"
        logger.error("the handler of %s failed on a %s", where, message.message_type.value, exc_info=error)
        if origin is not None:
            origin.fail(f"{type(error).__name__}: {error}")
        return False

    def _complain(self, handler: Handler) -> None:
        """Once per handler: its result may have been meant as the answer."""
        if id(handler) not in self._complained and len(self._complained) < 1_000:
            self._complained[id(handler)] = handler
            logger.debug(
                "%r returned a value, which nobody gets: set_handler leaves it to the handler to "
                "answer by send_to_connection; channel.serve sends what a handler returns",
                handler,
            )


class _Application(Application):
    """An application of a server."""

    def __init__(
        self,
        server: FrameworkServer,
        app_id: str,
        name: Optional[str] = None,
        told: Optional[Dict[str, Any]] = None,
    ) -> None:
        self._server = server
        #: The channels that the program asked for.
        self._own: Dict[str, _Channel] = {}
        super().__init__(app_id, name)
        if told is not None:
            self.created_at, self.last_activity = told["created_at"], told["last_activity"]

    def _install(self) -> None:
        """The server runs: it learns what was set up before."""
        native = self._server._native
        if native is not None:
            native.create_application(self.app_id, self.name)
            for channel in list(self._own.values()):
                channel._install(native)

    def _adopt(self, channel: _Channel) -> None:
        """The program has set up a channel that a client brought into being."""
        if self._server._apps.setdefault(self.app_id, self) is self:
            self._own.setdefault(channel.channel_id, channel)

    @property
    def channels(self) -> Dict[str, Channel]:  # type: ignore[override]
        """All channels by id, those that clients brought into being too."""
        return {id: self._own.get(id) or _Channel(self, id) for id in self.list_channels()}

    @channels.setter
    def channels(self, _: Dict[str, Channel]) -> None:
        """The base class begins with none."""

    def create_channel(self, channel_id: str) -> Channel:
        _check_id(channel_id)
        with self._lock:
            channel = self._own.get(channel_id)
            if channel is None:
                self._server._apps.setdefault(self.app_id, self)
                channel = self._own[channel_id] = _Channel(self, channel_id)
                self.update_activity()
                if self._server._native is not None:
                    self._server._native.create_channel(self.app_id, channel_id)
            return channel

    def get_channel(self, channel_id: str) -> Optional[Channel]:
        channel = self._own.get(channel_id)
        native = self._server._native
        if channel is None and native is not None and native.has_channel(self.app_id, channel_id):
            return _Channel(self, channel_id)
        return channel

    def remove_channel(self, channel_id: str) -> bool:
        own = self._own.pop(channel_id, None)
        native = self._server._native
        known = native.remove_channel(self.app_id, channel_id) if native is not None else False
        return known or own is not None

    def list_channels(self) -> List[str]:
        native = self._server._native
        told = [] if native is None else native.list_channels(self.app_id)
        return list(dict.fromkeys([*self._own, *told]))


class _Channel(Channel):
    """A channel of a server."""

    def __init__(self, application: _Application, channel_id: str) -> None:
        self._application = application
        #: Subscribers that were named while the server did not run.
        self._early: List[str] = []
        self._serves = False
        super().__init__(channel_id, application.app_id)

    def _install(self, native: _native.Server) -> None:
        native.create_channel(self.app_id, self.channel_id)
        for message_type, handler in list(self.handlers.items()):
            self._set(native, message_type, handler)
        for connection_id in self._early:
            native.subscribe(self.app_id, self.channel_id, connection_id)

    def _set(self, native: _native.Server, message_type: MessageType, handler: Handler) -> None:
        serves = self._serves and message_type is MessageType.REQUEST
        if message_type in HANDLED:
            native.set_handler(self.app_id, self.channel_id, message_type.value, handler, serves)

    def set_handler(self, message_type: MessageType, handler: Handler) -> None:
        if message_type not in HANDLED:
            logger.warning(
                "a handler for %s is never called, the server carries such messages out by itself; "
                "override route_message to see them",
                message_type,
            )
        if message_type is MessageType.REQUEST:
            self._serves = False
        self._put(message_type, handler)

    def serve(self, handler: H) -> H:
        self._serves = True
        self._put(MessageType.REQUEST, handler)
        return handler

    def _put(self, message_type: MessageType, handler: Handler) -> None:
        super().set_handler(message_type, handler)
        self._application._adopt(self)
        native = self._application._server._native
        if native is not None:
            native.create_channel(self.app_id, self.channel_id)
            self._set(native, message_type, handler)

    @property
    def subscribers(self) -> List[str]:  # type: ignore[override]
        """The ids of the connections that listen; a copy."""
        native = self._application._server._native
        if native is None:
            return list(self._early)
        return native.subscribers(self.app_id, self.channel_id)

    @subscribers.setter
    def subscribers(self, _: List[str]) -> None:
        """The base class begins with none."""

    def get_subscribers(self) -> List[str]:
        return self.subscribers

    def add_subscriber(self, connection_id: str) -> None:
        native = self._application._server._native
        if native is not None:
            native.subscribe(self.app_id, self.channel_id, connection_id)
        elif connection_id not in self._early:
            self._early.append(connection_id)

    def remove_subscriber(self, connection_id: str) -> None:
        if connection_id in self._early:
            self._early.remove(connection_id)
        native = self._application._server._native
        if native is not None:
            native.unsubscribe(self.app_id, self.channel_id, connection_id)


class _Connections(ConnectionManager):
    """Who is connected to a server, as that knows it."""

    def __init__(self, server: FrameworkServer) -> None:
        self._server = server
        super().__init__()

    @property
    def connections(self) -> Dict[str, Any]:  # type: ignore[override]
        """All connections by their ids; a copy."""
        return dict(self._server.client_sockets)

    @connections.setter
    def connections(self, _: Dict[str, Any]) -> None:
        """The base class begins with none."""

    @property
    def connection_apps(self) -> Dict[str, str]:  # type: ignore[override]
        """The application of each connection; a copy."""
        return {id: connection.app_id for id, connection in self._server.client_sockets.items()}

    @connection_apps.setter
    def connection_apps(self, _: Dict[str, str]) -> None:
        """The base class begins with none."""

    def add_connection(self, connection_id: str, connection_obj: Any, app_id: str) -> None:
        """The server does that by itself."""

    def remove_connection(self, connection_id: str) -> None:
        """The server does that by itself."""

    def get_connection(self, connection_id: Optional[str]) -> Optional[Any]:
        native = self._server._native
        return native.connection(connection_id) if native and connection_id else None

    def get_connections_for_app(self, app_id: str) -> List[str]:
        native = self._server._native
        return [one.connection_id for one in native.connections_of(app_id)] if native else []

    def list_connections(self) -> List[str]:
        return list(self._server.client_sockets)


class _Thread(threading.Thread):
    """A thread that can be waited for in the main one: where Ctrl-C interrupts ``join``, older
    Pythons take the thread for ended, and abort when it ends."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        finally:
            self.ended.set()


class _Coroutines:
    """The asyncio loop of ``async def`` handlers, which begins with the first of them."""

    def __init__(self) -> None:
        self.thread: Optional[_Thread] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self.thread = _Thread("ipc-asyncio", lambda: self._run(loop))
                self.thread.start()
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def stop(self) -> None:
        loop, thread = self._loop, self.thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.ended.wait()


def _check_id(id: str) -> None:
    length = len(id.encode())
    if not 0 < length <= 256:
        raise ValueError(f"an id has 1 to 256 bytes, this one has {length}")


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _print_log() -> None:
    """What the published server prints, where it prints it."""
    if not any(isinstance(handler, _Printer) for handler in logger.handlers):
        logger.addHandler(_Printer())
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
        logger.propagate = False


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)


__all__ = ["ConnectionError", "FrameworkServer", "Limits"]
