"""What programs write, for mypy --strict: nothing here may be an error."""

import math
import pathlib
from typing import Any, Dict, List, Optional

from ipc_framework import Application, Channel, FrameworkServer, Message, MessageType
from ipc_framework.server import History, Limits


class Strict(FrameworkServer):
    def route_message(self, message: Message) -> bool:
        return message.payload is not None and super().route_message(message)

    def _handle_publish(self, message: Message, channel: Channel) -> bool:
        return super()._handle_publish(message, channel)


limits: Limits = {"request_timeout": 5.0, "idle_timeout": None}
history: History = {"app": "shop", "channel": "prices.*", "age": 600.0}
server = FrameworkServer("localhost", 8888, 100)
server = FrameworkServer(port=0, histories=[history, {"app": "shop", "channel": "orders"}], retained_max=1 << 20)
server = FrameworkServer(host=None, unix=pathlib.Path("/run/ipc.sock"), unix_mode=0o660, token="secret")
server = Strict(port=0, workers=4, spin=math.inf, limits=limits, daemon=True, verbose=False)
app: Application = server.create_application("app", "The App")
channel: Channel = app.create_channel("c")
found: Optional[Channel] = app.get_channel("c")
names: List[str] = app.list_channels()


def handler(message: Message) -> None:
    connection = server.connection_manager.get_connection(message.payload.get("connection_id"))
    server.send_to_connection(connection, message.create_response({"ok": True}))


channel.set_handler(MessageType.REQUEST, handler)


@channel.serve
async def answer(request: Message) -> Dict[str, Any]:
    return {"payload": request.payload}


@app.create_channel("sync").serve
def answer_now(request: Message) -> int:
    return 1


stats: Dict[str, Any] = server.get_stats()
listed: Dict[str, Dict[str, Any]] = server.list_channels("app")
server._handle_publish(Message("", "app", "c", MessageType.NOTIFICATION, {}, 0), channel)
with server as running:
    over: bool = running.wait(timeout=1.0)
