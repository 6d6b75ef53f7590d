"""Messages, channels, applications, and the bases of servers and clients.

Everything here is plain Python and works without the native module.
:class:`~ipc_framework.FrameworkServer` and :class:`~ipc_framework.FrameworkClient` connect it to
the Rust server and client.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import threading
import time
from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Tuple, TypeVar

if TYPE_CHECKING:
    from ._cancelled import Cancelled

logger = logging.getLogger("ipc_framework")

Handler = Callable[["Message"], Any]
H = TypeVar("H", bound=Callable[["Message"], Any])


def random_id() -> str:
    """Returns an id that nobody can guess, in the form of a UUID."""
    return _uuid(os.urandom(16).hex())


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


def failure_text(error: BaseException) -> str:
    """Returns the text that a requester gets for an exception of a handler."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__}, whose text cannot be had"
    # Such as that of a file name which is no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


class _Ids:
    """Ids of messages, which nobody can guess: whoever knows the id of a request could answer it. The system is asked
    for many at a time."""

    AT_A_TIME = 32

    def __init__(self) -> None:
        self.left: List[str] = []

    def __call__(self) -> str:
        try:
            return self.left.pop()
        except IndexError:
            digits = os.urandom(16 * self.AT_A_TIME).hex()
            first, *left = (_uuid(digits[at : at + 32]) for at in range(0, len(digits), 32))
            # Other threads may do the same meanwhile.
            self.left.extend(left)
            return first


fresh_id = _Ids()
# The child would use the parent's ids again.
os.register_at_fork(after_in_child=fresh_id.left.clear)


class MessageType(Enum):
    """The type of a message."""

    REQUEST = "request"
    RESPONSE = "response"
    NOTIFICATION = "notification"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    PUBLISH = "publish"


class Position(NamedTuple):
    """A place in a channel's history, which the server gives every publication of a channel that has one."""

    #: The name of the history. It is another one whenever the history begins anew, as after a restart of the server.
    epoch: str
    #: The number of the publication, from 1. The place before the first one is 0.
    offset: int


@dataclass
class Message:
    """One message. An empty id and a zero timestamp are filled in."""

    # `_origin` is the sender, which is not a field and is not copied: see `_native.Origin`. `_kept` is the place of a
    # publication in its channel's history, and whether it is the channel's last value.
    __slots__ = ("__dict__", "__weakref__", "_origin", "_kept")

    message_id: str
    app_id: str
    channel_id: str
    message_type: MessageType
    payload: Any
    timestamp: float
    reply_to: Optional[str] = None

    def __post_init__(self) -> None:
        if not self.message_id:
            self.message_id = fresh_id()
        if not self.timestamp:
            self.timestamp = time.time()

    @property
    def remaining(self) -> Optional[float]:
        """Seconds until the requester of a request gives up, 0.0 after that; None if it has not said when."""
        origin = getattr(self, "_origin", None)
        remaining: Optional[float] = None if origin is None else origin.remaining
        return remaining

    @property
    def cancelled(self) -> Cancelled:
        """The event that is set when nobody waits for the answer to this request any more."""
        from ._cancelled import Cancelled, Never

        origin = getattr(self, "_origin", None)
        return Cancelled(Never() if origin is None else origin.cancelled())

    @property
    def position(self) -> Optional[Position]:
        """The place of a received publication in its channel's history; None if the server keeps none. A later
        ``subscribe`` goes on behind it with ``since=message.position``."""
        position: Optional[Position] = getattr(self, "_kept", _NOT_KEPT)[0]
        return position

    @property
    def epoch(self) -> Optional[str]:
        """The name of the history in which a received publication has its place, see `position`."""
        position = self.position
        return None if position is None else position.epoch

    @property
    def offset(self) -> Optional[int]:
        """The number of a received publication in its channel's history, see `position`."""
        position = self.position
        return None if position is None else position.offset

    @property
    def retained(self) -> bool:
        """True for a received publication that was to be kept as its channel's last value."""
        retained: bool = getattr(self, "_kept", _NOT_KEPT)[1]
        return retained

    def create_response(self, payload: Any) -> Message:
        """Returns the answer to this message."""
        response = Message(
            message_id="",
            app_id=self.app_id,
            channel_id=self.channel_id,
            message_type=MessageType.RESPONSE,
            payload=payload,
            timestamp=0,
            reply_to=self.message_id,
        )
        # With the origin the answer can be sent without naming the connection.
        origin = getattr(self, "_origin", None)
        if origin is not None:
            setattr(response, "_origin", origin)
        return response

    def __getstate__(self) -> Any:
        kept = getattr(self, "_kept", None)
        return self.__dict__ if kept is None else (self.__dict__, {"_kept": kept})

    def to_dict(self) -> Dict[str, Any]:
        """Returns the seven fields as on the wire."""
        data = asdict(self)
        data["message_type"] = self.message_type.value
        return data

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> Message:
        """Returns the message with the fields of a dictionary."""
        return cls(**{**data, "message_type": MessageType(data["message_type"])})

    def to_json(self) -> str:
        """Returns the message as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, json_str: str) -> Message:
        """Returns the message of a JSON text."""
        return cls.from_dict(json.loads(json_str))


#: For messages of channels of which the server keeps nothing.
_NOT_KEPT: Tuple[Optional[Position], bool] = (None, False)


class Channel:
    """A channel of one application, with its subscribers and its handlers."""

    def __init__(self, channel_id: str, app_id: str) -> None:
        self.channel_id = channel_id
        self.app_id = app_id
        self.subscribers: List[str] = []
        self.handlers: Dict[MessageType, Handler] = {}
        self.created_at = time.time()
        self._lock = threading.RLock()

    def add_subscriber(self, connection_id: str) -> None:
        """Subscribes a connection, unless it is subscribed already."""
        with self._lock:
            if connection_id not in self.subscribers:
                self.subscribers.append(connection_id)

    def remove_subscriber(self, connection_id: str) -> None:
        """Unsubscribes a connection."""
        with self._lock:
            if connection_id in self.subscribers:
                self.subscribers.remove(connection_id)

    def set_handler(self, message_type: MessageType, handler: Handler) -> None:
        """Sets the handler of messages of one type. A later handler replaces an earlier one."""
        with self._lock:
            self.handlers[message_type] = handler

    def serve(self, handler: H) -> H:
        """Answers the channel's requests with the return value of ``handler``, which may be
        ``async``. Usable as a decorator.

        ::

            @application.create_channel("square").serve
            def square(request):
                return request.payload ** 2
        """
        raise NotImplementedError("channels of a FrameworkServer serve requests")

    def get_handler(self, message_type: MessageType) -> Optional[Handler]:
        """Returns the handler of messages of this type, if there is one."""
        with self._lock:
            return self.handlers.get(message_type)

    def get_subscribers(self) -> List[str]:
        """Returns the ids of the subscribed connections."""
        with self._lock:
            return self.subscribers.copy()


class Application:
    """An application, which is a name space of channels."""

    def __init__(self, app_id: str, name: Optional[str] = None) -> None:
        self.app_id = app_id
        self.name = name or app_id
        self.channels: Dict[str, Channel] = {}
        self.created_at = time.time()
        self.last_activity = time.time()
        self._lock = threading.RLock()

    def create_channel(self, channel_id: str) -> Channel:
        """Returns the channel with this id, and creates it if there is none."""
        with self._lock:
            channel = self.channels.get(channel_id)
            if channel is None:
                channel = self.channels[channel_id] = Channel(channel_id, self.app_id)
                self.update_activity()
            return channel

    def get_channel(self, channel_id: str) -> Optional[Channel]:
        """Returns the channel with this id, if there is one."""
        with self._lock:
            return self.channels.get(channel_id)

    def remove_channel(self, channel_id: str) -> bool:
        """Removes a channel. Returns whether there was one."""
        with self._lock:
            if self.channels.pop(channel_id, None) is None:
                return False
            self.update_activity()
            return True

    def list_channels(self) -> List[str]:
        """Returns the ids of all channels."""
        with self._lock:
            return list(self.channels)

    def update_activity(self) -> None:
        """Notes that something happened in the application."""
        self.last_activity = time.time()


class ConnectionManager:
    """The connections, and the application of each."""

    def __init__(self) -> None:
        self.connections: Dict[str, Any] = {}
        self.connection_apps: Dict[str, str] = {}
        self._lock = threading.RLock()

    def add_connection(self, connection_id: str, connection_obj: Any, app_id: str) -> None:
        """Adds a connection."""
        with self._lock:
            self.connections[connection_id] = connection_obj
            self.connection_apps[connection_id] = app_id

    def remove_connection(self, connection_id: str) -> None:
        """Removes a connection."""
        with self._lock:
            self.connections.pop(connection_id, None)
            self.connection_apps.pop(connection_id, None)

    def get_connection(self, connection_id: str) -> Optional[Any]:
        """Returns the connection with this id, for ``send_to_connection``."""
        with self._lock:
            return self.connections.get(connection_id)

    def get_connections_for_app(self, app_id: str) -> List[str]:
        """Returns the ids of an application's connections."""
        with self._lock:
            return [id for id, app in self.connection_apps.items() if app == app_id]

    def list_connections(self) -> List[str]:
        """Returns the ids of all connections."""
        with self._lock:
            return list(self.connections)


class IPCServer:
    """The base of servers: it keeps applications, and hands messages to their handlers."""

    def __init__(self, host: str = "localhost", port: int = 8888) -> None:
        self.host = host
        self.port = port
        self.applications: Dict[str, Application] = {}
        self.connection_manager: ConnectionManager = ConnectionManager()
        self.running = False
        self._lock = threading.RLock()

    def create_application(self, app_id: str, name: Optional[str] = None) -> Application:
        """Returns the application with this id, and creates it if there is none."""
        with self._lock:
            application = self.applications.get(app_id)
            if application is None:
                application = self.applications[app_id] = Application(app_id, name)
            return application

    def get_application(self, app_id: str) -> Optional[Application]:
        """Returns the application with this id, if there is one."""
        with self._lock:
            return self.applications.get(app_id)

    def route_message(self, message: Message) -> bool:
        """Hands a message to its handler. Returns whether there was one. A subclass of `FrameworkServer` that
        overrides this sees every message first, except those on ``system``."""
        application = self.get_application(message.app_id)
        channel = self._channel_of(application, message.channel_id) if application else None
        if application is None or channel is None:
            return False
        application.update_activity()
        if message.message_type is MessageType.PUBLISH:
            return self._handle_publish(message, channel)
        if message.message_type is MessageType.SUBSCRIBE:
            return self._handle_subscribe(message, channel)
        if message.message_type is MessageType.UNSUBSCRIBE:
            return self._handle_unsubscribe(message, channel)
        return self._call_handler(message, channel)

    def _channel_of(self, application: Application, channel_id: str) -> Optional[Channel]:
        return application.get_channel(channel_id)

    def _call_handler(self, message: Message, channel: Channel) -> bool:
        """Hands a message to the channel's handler for its type, if there is one."""
        handler = channel.get_handler(message.message_type)
        if handler is None:
            return False
        try:
            handler(message)
        except Exception:
            logger.exception("the handler of %s/%s failed", message.app_id, message.channel_id)
            return False
        return True

    def _handle_publish(self, message: Message, channel: Channel) -> bool:
        """Sends a message to all subscribers of a channel."""
        for connection_id in channel.get_subscribers():
            connection = self.connection_manager.get_connection(connection_id)
            if connection:
                self.send_to_connection(connection, message)
        return True

    def _handle_subscribe(self, message: Message, channel: Channel) -> bool:
        """Subscribes the connection that the payload names."""
        return self._change_subscription(message, channel.add_subscriber)

    def _handle_unsubscribe(self, message: Message, channel: Channel) -> bool:
        """Unsubscribes the connection that the payload names."""
        return self._change_subscription(message, channel.remove_subscriber)

    def _change_subscription(self, message: Message, change: Callable[[str], None]) -> bool:
        """Calls ``change`` with the connection that the payload names. Returns whether it names one."""
        connection_id = message.payload.get("connection_id")
        if connection_id:
            change(connection_id)
        return bool(connection_id)

    def send_to_connection(self, connection: Any, message: Message) -> None:
        """Sends a message to one connection."""
        raise NotImplementedError("a subclass sends messages, see FrameworkServer")

    def start(self) -> None:
        """Starts to listen."""
        raise NotImplementedError("a subclass starts the server, see FrameworkServer")

    def stop(self) -> None:
        """Stops the server."""
        raise NotImplementedError("a subclass stops the server, see FrameworkServer")


class IPCClient:
    """The base of clients: it builds messages, and hands received ones to their handlers."""

    def __init__(self, app_id: str, host: str = "localhost", port: int = 8888) -> None:
        self.app_id = app_id
        self.host = host
        self.port = port
        self.connection_id = random_id()
        self.connected = False
        self.message_handlers: Dict[str, Handler] = {}
        #: The contexts of those who set the handlers.
        self._handler_contexts: Dict[str, Tuple[Handler, contextvars.Context]] = {}
        self._lock = threading.RLock()

    def connect(self) -> bool:
        """Connects to the server."""
        raise NotImplementedError("a subclass connects, see FrameworkClient")

    def disconnect(self) -> None:
        """Disconnects from the server."""
        raise NotImplementedError("a subclass disconnects, see FrameworkClient")

    def send_message(
        self,
        channel_id: str,
        message_type: MessageType,
        payload: Any,
        reply_to: Optional[str] = None,
    ) -> str:
        """Sends a message on a channel. Returns its id."""
        message = Message(
            message_id="",
            app_id=self.app_id,
            channel_id=channel_id,
            message_type=message_type,
            payload=payload,
            timestamp=0,
            reply_to=reply_to,
        )
        return self._send_message(message)

    def _send_message(self, message: Message) -> str:
        raise NotImplementedError("a subclass sends messages, see FrameworkClient")

    def subscribe(self, channel_id: str, handler: Optional[Handler] = None) -> bool:
        """Subscribes to a channel, and sets the handler of its messages."""
        if handler:
            self._set_handler(channel_id, handler)
        self.send_message(channel_id, MessageType.SUBSCRIBE, {"connection_id": self.connection_id})
        return True

    def unsubscribe(self, channel_id: str) -> bool:
        """Unsubscribes from a channel, and removes its handler."""
        self._remove_handler(channel_id)
        payload = {"connection_id": self.connection_id}
        self.send_message(channel_id, MessageType.UNSUBSCRIBE, payload)
        return True

    def _set_handler(self, channel_id: str, handler: Handler) -> None:
        with self._lock:
            self.message_handlers[channel_id] = handler
            self._handler_contexts[channel_id] = (handler, contextvars.copy_context())

    def _remove_handler(self, channel_id: str) -> None:
        with self._lock:
            self.message_handlers.pop(channel_id, None)
            self._handler_contexts.pop(channel_id, None)

    def publish(self, channel_id: str, data: Any) -> str:
        """Publishes data to the subscribers of a channel."""
        return self.send_message(channel_id, MessageType.PUBLISH, data)

    def request(self, channel_id: str, data: Any) -> str:
        """Sends a request without waiting. Returns its id, which the answer names in ``reply_to``."""
        return self.send_message(channel_id, MessageType.REQUEST, data)

    def handle_message(self, message: Message) -> None:
        """Hands a message to the handler of its channel, in a copy of the context of whoever has set the handler."""
        with self._lock:
            handler = self.message_handlers.get(message.channel_id)
            of, context = self._handler_contexts.get(message.channel_id, (None, None))
        if handler is None:
            return
        # A program may have put the handler into the dictionary by itself.
        context = context.copy() if context is not None and of is handler else contextvars.copy_context()
        try:
            context.run(handler, message)
        except Exception:
            logger.exception("the handler of %s/%s failed", message.app_id, message.channel_id)
