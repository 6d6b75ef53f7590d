"""Messages are what the published package makes of them."""

import json

from ipc_framework import Message, MessageType


def test_a_message_survives_json() -> None:
    message = Message("1", "app", "c", MessageType.REQUEST, {"a": [1, None]}, 2.5)
    assert json.loads(message.to_json())["message_type"] == "request"
    assert Message.from_json(message.to_json()) == message
    assert message.create_response(7).reply_to == "1"
