"""Bodies with attachments, read and written by nothing but what PROTOCOL.md says."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

ALIGNMENT = 64
ITEM_BYTES = {"bool": 1, "u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8}
ITEM_BYTES.update(f16=2, bf16=2, f32=4, f64=8, c64=8, c128=16)


class Attachment(NamedTuple):
    pointer: str
    dtype: Optional[str]
    shape: Optional[List[int]]
    data: bytes


def _padding(size: int) -> bytes:
    return bytes(-size % ALIGNMENT)


def encode(message: Any, attachments: List[Attachment]) -> bytes:
    """Returns a body. Without attachments it is JSON alone."""
    if not attachments:
        return json.dumps(message).encode()
    listed = [[one.pointer, len(one.data), one.dtype, one.shape] for one in attachments]
    meta = {**message.get("meta", {}), "bin": listed}
    text = json.dumps({**message, "meta": meta}).encode()
    body = len(text).to_bytes(4, "big") + text
    body += _padding(len(body))
    for one in attachments:
        body += one.data + _padding(len(one.data))
    return body


def decode(body: bytes) -> Tuple[Any, List[Attachment]]:
    """Returns the message of a body, and checks everything about its attachments."""
    if body[0] != 0:
        message = json.loads(body)
        assert "bin" not in message.get("meta", {})
        return message, []
    at = 4 + int.from_bytes(body[:4], "big")
    message = json.loads(body[4:at])

    def skip_padding(at: int) -> int:
        end = at + -at % ALIGNMENT
        assert end <= len(body) and not any(body[at:end]), "padding is zeros"
        return end

    at = skip_padding(at)
    attachments = []
    for pointer, size, dtype, shape in message["meta"]["bin"]:
        attachments.append(Attachment(pointer, dtype, shape, body[at : at + size]))
        assert at + size <= len(body)
        at = skip_padding(at + size)
        if dtype is None:
            assert shape is None
        else:
            count = 1
            for length in shape:
                count *= length
            assert count * ITEM_BYTES[dtype] == size and len(shape) <= 32
    assert at == len(body)
    nulls = [pointer for pointer, value in leaves("", message["payload"]) if value is None]
    pointers = [one.pointer for one in attachments]
    assert 1 <= len(pointers) <= 1_024
    assert [pointer for pointer in nulls if pointer in pointers] == pointers, "in the order of the nulls"
    return message, attachments


def leaves(pointer: str, value: Any) -> List[Tuple[str, Any]]:
    """Returns all values that are no containers, with the pointers to them, in their order."""
    if isinstance(value, list):
        pairs: Any = enumerate(value)
    elif isinstance(value, dict):
        pairs = value.items()
    else:
        return [(pointer, value)]
    found = []
    for key, inner in pairs:
        step = str(key).replace("~", "~0").replace("/", "~1")
        found += leaves(f"{pointer}/{step}", inner)
    return found


def read(peer: socket.socket) -> Optional[bytes]:
    """Returns the next body; None at the end."""

    def exactly(size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            piece = peer.recv(size - len(got))
            if not piece:
                raise EOFError
            got += piece
        return bytes(got)

    try:
        return exactly(int.from_bytes(exactly(4), "big"))
    except (EOFError, OSError):
        return None


def write(peer: socket.socket, body: bytes) -> None:
    peer.sendall(len(body).to_bytes(4, "big") + body)


class FakeServer:
    """A server for one connection after another. It answers requests by what `answer` returns: a payload and its
    attachments; and keeps all that it has read. It sends the bodies in `first` before the next answer."""

    def __init__(self, answer: Callable[[Any, List[Attachment]], Tuple[Any, List[Attachment]]], **welcome: Any):
        self.answer, self.welcome = answer, welcome
        self.first: List[bytes] = []
        self.read: List[Tuple[Any, List[Attachment]]] = []
        self.listener = socket.create_server(("localhost", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            # A client that is shown nonsense leaves while more is written to it; the next one finds the server here.
            with peer, contextlib.suppress(ConnectionError):
                while (body := read(peer)) is not None:
                    self._serve(peer, *decode(body))

    def _serve(self, peer: socket.socket, message: Any, attachments: List[Attachment]) -> None:
        if message["channel_id"] == "system":
            action = message["payload"].get("action")
            if action == "connect":
                connection_id = message["payload"]["connection_id"]
                payload = {"status": "connected", "connection_id": connection_id, **self.welcome}
                answered: Any = None
            elif action == "ping":
                payload, answered = {"status": "pong"}, message["message_id"]
            else:
                return
            write(peer, encode({**message, "message_type": "response", "payload": payload, "reply_to": answered}, []))
            return
        self.read.append((message, attachments))
        if message["message_type"] == "request":
            payload, attached = self.answer(message["payload"], attachments)
            # The test may set those of its next request while these are written.
            first, self.first = self.first, []
            for body in first:
                write(peer, body)
            answer = {**message, "message_type": "response", "payload": payload, "reply_to": message["message_id"]}
            answer.pop("meta", None)
            write(peer, encode(answer, attached))


class BinaryPeer:
    """A connection to a server, made of nothing but a socket."""

    def __init__(self, port: int, app_id: str, connection_id: str = "raw", extensions: Any = ("call", "binary")):
        self.socket = socket.create_connection(("localhost", port), timeout=30)
        self.app_id, self.connection_id = app_id, connection_id
        self._count = 0
        connect = {"action": "connect", "connection_id": connection_id, "extensions": list(extensions)}
        self.send("request", "system", connect)
        self.welcome = self.receive()[0]["payload"]

    def __enter__(self) -> BinaryPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(
        self,
        message_type: str,
        channel_id: str,
        payload: Any,
        attachments: List[Attachment] = [],
        reply_to: Optional[str] = None,
        **meta: Any,
    ) -> str:
        self._count += 1
        message = {
            "message_id": f"{self.connection_id}-{self._count}",
            "app_id": self.app_id,
            "channel_id": channel_id,
            "message_type": message_type,
            "payload": payload,
            "timestamp": 1.5,
            "reply_to": reply_to,
        }
        if meta:
            message["meta"] = meta
        write(self.socket, encode(message, attachments))
        return str(message["message_id"])

    def receive(self) -> Tuple[Any, List[Attachment]]:
        body = read(self.socket)
        assert body is not None, "the server closed the connection"
        return decode(body)

    def ask(self, channel_id: str, payload: Any, attachments: List[Attachment] = []) -> Tuple[Any, List[Attachment]]:
        """Returns the payload of the answer to a request, and its attachments. Nothing else may come before."""
        asked = self.send("request", channel_id, payload, attachments)
        answer, attached = self.receive()
        assert answer["reply_to"] == asked, answer
        return answer["payload"], attached
