"""A server's applications, channels and connections, as the published package shows them."""

from __future__ import annotations

import contextvars
import logging
import math
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional

from . import _deadlines, _native
from .core import Application, Channel, ConnectionManager, H, Handler, MessageType

if TYPE_CHECKING:
    from .server import FrameworkServer

logger = logging.getLogger("ipc_framework")

#: Types that handlers of :meth:`Channel.set_handler` get. The server handles the others itself.
HANDLED = (MessageType.REQUEST, MessageType.NOTIFICATION, MessageType.RESPONSE)


class InContext(NamedTuple):
    """A handler, and the context of whoever has set it, in copies of which it is called."""

    handler: Handler
    context: contextvars.Context


class ServerApplication(Application):
    """An application of a server."""

    def __init__(
        self,
        server: FrameworkServer,
        app_id: str,
        name: Optional[str] = None,
    ) -> None:
        self._server = server
        #: The channels that the program created.
        self._own: Dict[str, ServerChannel] = {}
        super().__init__(app_id, name)

    def _set_handlers(self, native: _native.Server) -> None:
        """Sets the handlers, before the server runs."""
        for channel in list(self._own.values()):
            channel._set_handlers(native)

    def _install(self, native: _native.Server) -> None:
        """Tells the running server what was set up before its start."""
        native.create_application(self.app_id, self.name)
        for channel in list(self._own.values()):
            channel._install(native)

    def _told(self) -> Dict[str, Any]:
        """Returns what the server knows of it, while it runs."""
        native = self._server._native
        return {} if native is None else native.list_applications().get(self.app_id, {})

    @property
    def created_at(self) -> float:  # type: ignore[override, unused-ignore]  # older mypy
        return min(self._created_at, float(self._told().get("created_at", math.inf)))

    @created_at.setter
    def created_at(self, created_at: float) -> None:
        self._created_at = created_at

    @property
    def last_activity(self) -> float:  # type: ignore[override, unused-ignore]  # older mypy
        return max(self._last_activity, float(self._told().get("last_activity", 0.0)))

    @last_activity.setter
    def last_activity(self, last_activity: float) -> None:
        self._last_activity = last_activity

    def _adopt(self, channel: ServerChannel) -> None:
        """Keeps a channel that a client created and the program sets up."""
        owner = self._server._apps.setdefault(self.app_id, self)
        owner._own.setdefault(channel.channel_id, channel)

    @property
    def channels(self) -> Dict[str, Channel]:  # type: ignore[override, unused-ignore]  # older mypy
        """All channels by id, including those that clients created."""
        return {id: self._own.get(id) or ServerChannel(self, id) for id in self.list_channels()}

    @channels.setter
    def channels(self, _: Dict[str, Channel]) -> None:
        """Ignores the empty value that the base class sets."""

    def create_channel(self, channel_id: str) -> Channel:
        check_id(channel_id)
        # There may be several objects for an application that a client created: the first one that
        # gets a channel keeps all of them.
        owner = self._server._apps.setdefault(self.app_id, self)
        if owner is not self:
            return owner.create_channel(channel_id)
        with self._lock:
            channel = self._own.get(channel_id)
            if channel is not None:
                return channel
            channel = self._own[channel_id] = ServerChannel(self, channel_id)
            self.update_activity()
            native = self._server._native
        # Not under the lock: a handler may wait for the lock, and the loop waits for the handler.
        if native is not None:
            native.create_channel(self.app_id, channel_id)
        return channel

    def get_channel(self, channel_id: str) -> Optional[Channel]:
        channel = self._own.get(channel_id)
        native = self._server._native
        if channel is None and native is not None and native.has_channel(self.app_id, channel_id):
            return ServerChannel(self, channel_id)
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


class ServerChannel(Channel):
    """A channel of a server."""

    def __init__(self, application: ServerApplication, channel_id: str) -> None:
        self._application = application
        #: Subscribers that were added while the server did not run.
        self._early: List[str] = []
        self._serves = False
        self._contexts: Dict[MessageType, contextvars.Context] = {}
        super().__init__(channel_id, application.app_id)

    def _set_handlers(self, native: _native.Server) -> None:
        for message_type, handler in list(self.handlers.items()):
            self._set(native, message_type, handler)

    def _install(self, native: _native.Server) -> None:
        native.create_channel(self.app_id, self.channel_id)
        for connection_id in self._early:
            native.set_subscribed(self.app_id, self.channel_id, connection_id, True)

    def _set(self, native: _native.Server, message_type: MessageType, handler: Handler) -> None:
        serves = self._serves and message_type is MessageType.REQUEST
        if message_type in HANDLED:
            in_context = InContext(handler, self._context(message_type))
            native.set_handler(self.app_id, self.channel_id, message_type.value, in_context, serves)

    def set_handler(self, message_type: MessageType, handler: Handler) -> None:
        if message_type not in HANDLED:
            logger.warning(
                "a handler for %s is never called, because the server handles such messages itself; "
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

    def _context(self, message_type: MessageType) -> contextvars.Context:
        """Returns the context of whoever has set the handler. It is the caller's own for a handler that was put into
        `handlers` directly."""
        context = self._contexts.get(message_type)
        return contextvars.copy_context() if context is None else context

    def _put(self, message_type: MessageType, handler: Handler) -> None:
        context = self._contexts[message_type] = contextvars.copy_context()
        # A handler may have set it, whose own deadline is no concern of later requests.
        context.run(_deadlines.begin, None)
        super().set_handler(message_type, handler)
        self._application._adopt(self)
        native = self._application._server._native
        if native is not None:
            native.create_channel(self.app_id, self.channel_id)
            self._set(native, message_type, handler)

    @property
    def subscribers(self) -> List[str]:  # type: ignore[override, unused-ignore]  # older mypy
        """The ids of the subscribed connections, as a copy."""
        native = self._application._server._native
        if native is None:
            return list(self._early)
        return native.subscribers(self.app_id, self.channel_id)

    @subscribers.setter
    def subscribers(self, _: List[str]) -> None:
        """Ignores the empty value that the base class sets."""

    def get_subscribers(self) -> List[str]:
        return self.subscribers

    def add_subscriber(self, connection_id: str) -> None:
        native = self._application._server._native
        if native is not None:
            native.set_subscribed(self.app_id, self.channel_id, connection_id, True)
        elif connection_id not in self._early:
            self._early.append(connection_id)

    def remove_subscriber(self, connection_id: str) -> None:
        if connection_id in self._early:
            self._early.remove(connection_id)
        native = self._application._server._native
        if native is not None:
            native.set_subscribed(self.app_id, self.channel_id, connection_id, False)


class ServerConnections(ConnectionManager):
    """The connections of a server, as the server knows them."""

    def __init__(self, server: FrameworkServer) -> None:
        self._server = server
        super().__init__()

    @property
    def connections(self) -> Dict[str, Any]:  # type: ignore[override, unused-ignore]  # older mypy
        """All connections by their ids, as a copy."""
        return dict(self._server.client_sockets)

    @connections.setter
    def connections(self, _: Dict[str, Any]) -> None:
        """Ignores the empty value that the base class sets."""

    @property
    def connection_apps(self) -> Dict[str, str]:  # type: ignore[override, unused-ignore]  # older mypy
        """The application of each connection, as a copy."""
        return {id: connection.app_id for id, connection in self._server.client_sockets.items()}

    @connection_apps.setter
    def connection_apps(self, _: Dict[str, str]) -> None:
        """Ignores the empty value that the base class sets."""

    def add_connection(self, connection_id: str, connection_obj: Any, app_id: str) -> None:
        """Does nothing, because the server does that itself."""

    def remove_connection(self, connection_id: str) -> None:
        """Does nothing, because the server does that itself."""

    def get_connection(self, connection_id: Optional[str]) -> Optional[Any]:
        native = self._server._native
        return native.connection(connection_id) if native and connection_id else None

    def get_connections_for_app(self, app_id: str) -> List[str]:
        native = self._server._native
        return [one.connection_id for one in native.connections_of(app_id)] if native else []

    def list_connections(self) -> List[str]:
        return list(self._server.client_sockets)


def check_id(id: str) -> None:
    if not isinstance(id, str):
        raise TypeError(f"an id is a string, not {id!r}")
    length = len(id.encode())
    if not 0 < length <= 256:
        raise ValueError(f"an id has 1 to 256 bytes, this one has {length}")
