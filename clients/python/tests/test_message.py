"""Messages are what the published package makes of them."""

import json
import os

from ipc_framework import Message, MessageType


def test_a_message_survives_json() -> None:
    message = Message("1", "app", "c", MessageType.REQUEST, {"a": [1, None]}, 2.5)
    assert json.loads(message.to_json())["message_type"] == "request"
    assert Message.from_json(message.to_json()) == message
    assert message.create_response(7).reply_to == "1"


def test_no_id_tells_another_one() -> None:
    # Whoever could tell the id of a request could answer it.
    ids = [Message("", "app", "c", MessageType.PUBLISH, None, 0).message_id for _ in range(100)]
    assert len({id[:8] for id in ids}) == len({id[-12:] for id in ids}) == len(ids)


def test_a_child_has_ids_of_its_own() -> None:
    def ids() -> str:
        return " ".join(Message("", "app", "c", MessageType.PUBLISH, None, 0).message_id for _ in range(40))

    ids()
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writable, ids().encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(readable) as text, os.fdopen(writable, "w"):
        assert set(os.read(text.fileno(), 1 << 16).decode().split()).isdisjoint(ids().split())
