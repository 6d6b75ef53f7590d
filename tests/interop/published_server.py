"""The published server, with handlers written as its documentation says: `published_server.py PORT APPLICATION…`.

It is run by the published package, and by the one that takes its place, until standard input ends. With port 0 it
takes a free one. Each application has these channels; whoever asks is found by the `connection_id` in the payload, and
without one the answer goes to the whole application, as in the package's own examples.

echo    answers with the payload
api     answers `{"echo": <payload>, "action": ...}`
batch   collects requests until one says `{"flush": true}`, then answers all in reverse order
raw     writes the bytes that `{"hex": ...}` gives to the connection, whether they are a frame or not
late    answers after `{"seconds": ...}`
notes   keeps notifications, and answers with all of them
silent  answers nothing
"""

import sys
import threading
import time

from ipc_framework import FrameworkServer, MessageType

server = FrameworkServer("127.0.0.1", int(sys.argv[1]))
waiting, noted = [], []


def connections_of(message):
    named = isinstance(message.payload, dict) and message.payload.get("connection_id")
    ids = [named] if named else server.connection_manager.get_connections_for_app(message.app_id)
    return filter(None, map(server.connection_manager.get_connection, ids))


def answer(message, payload):
    for connection in connections_of(message):
        server.send_to_connection(connection, message.create_response(payload))


def on_batch(message):
    waiting.append(message)
    if message.payload.get("flush"):
        for held in reversed(waiting):
            answer(held, {"n": held.payload["n"]})
        waiting.clear()


def on_raw(message):
    for connection in connections_of(message):
        connection.sendall(bytes.fromhex(message.payload["hex"]))


def on_late(message):
    def later():
        time.sleep(message.payload["seconds"])
        answer(message, {"late": True})

    threading.Thread(target=later, daemon=True).start()


HANDLERS = {
    "echo": lambda message: answer(message, message.payload),
    "api": lambda message: answer(message, {"echo": message.payload, "action": message.payload.get("action")}),
    "batch": on_batch,
    "raw": on_raw,
    "late": on_late,
    "notes": lambda message: answer(message, list(noted)),
    "silent": lambda message: None,
}

for app_id in sys.argv[2:]:
    application = server.create_application(app_id)
    for channel_id, handler in HANDLERS.items():
        application.create_channel(channel_id).set_handler(MessageType.REQUEST, handler)
    notes = application.get_channel("notes")
    notes.set_handler(MessageType.NOTIFICATION, lambda message: noted.append(message.payload))

server.start()
# The published one keeps saying 0 where it took a free port.
port = server.port or server.server_socket.getsockname()[1]
print(f"listening on 127.0.0.1:{port} ", file=sys.stderr, flush=True)
sys.stdin.read()
server.stop()
