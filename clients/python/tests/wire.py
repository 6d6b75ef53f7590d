"""A client made of nothing but a socket."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import textwrap
from typing import Any, Optional

from ipc_framework import FrameworkServer
from peers import STEP_SECONDS_MAX


class Peer:
    """One connection."""

    def __init__(self, server: FrameworkServer, app_id: str = "app", connection_id: str = "me", **connect: Any):
        self.socket = socket.create_connection(("localhost", server.port), timeout=STEP_SECONDS_MAX)
        self.app_id, self.connection_id = app_id, connection_id
        self._ids = itertools.count()
        self.send("request", "system", {"action": "connect", "connection_id": connection_id, **connect})
        self.welcome = self.receive()

    def send(self, message_type: str, channel_id: str, payload: Any, reply_to: Optional[str] = None) -> str:
        id = f"{self.connection_id}-{next(self._ids)}"
        message = {
            "message_id": id,
            "app_id": self.app_id,
            "channel_id": channel_id,
            "message_type": message_type,
            "payload": payload,
            "timestamp": 1.5,
            "reply_to": reply_to,
        }
        body = json.dumps(message).encode()
        self.socket.sendall(len(body).to_bytes(4, "big") + body)
        return id

    def receive(self) -> Any:
        length = int.from_bytes(self._exactly(4), "big")
        return json.loads(self._exactly(length))

    def _exactly(self, size: int) -> bytes:
        read = b""
        while len(read) < size:
            piece = self.socket.recv(size - len(read))
            if not piece:
                raise EOFError("the server closed the connection")
            read += piece
        return read

    def ask(self, channel_id: str, payload: Any = None) -> Any:
        """The payload of the answer to a request; nothing else may come before."""
        id = self.send("request", channel_id, payload)
        answer = self.receive()
        assert answer["reply_to"] == id, answer
        return answer["payload"]

    def fence(self) -> None:
        """All that was sent before is done, and nothing else was on its way here."""
        assert self.ask("system", {"action": "ping"}) == {"status": "pong"}

    def subscribe(self, channel_id: str) -> None:
        payload = {"connection_id": self.connection_id, "ack": True}
        id = self.send("subscribe", channel_id, payload)
        answer = self.receive()
        assert (answer["reply_to"], answer["payload"]) == (id, {"status": "subscribed"}), answer

    def close(self) -> None:
        self.socket.close()


def first_peer(server: FrameworkServer, app_id: str = "app", **connect: Any) -> Peer:
    """Starts the server and connects to it."""
    server.start()
    return Peer(server, app_id, **connect)


def script(program: str, *arguments: object, python: Any = sys.executable) -> "subprocess.Popen[str]":
    """A Python program in a process of its own."""
    return subprocess.Popen(
        [str(python), "-u", "-c", textwrap.dedent(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
