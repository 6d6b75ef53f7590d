"""The published server, unmodified, with handlers written as its documentation says.

`python pypi_server.py PORT`; prints `serving on <port>`. Applications come into being when clients connect, with
these channels:

api     answers `{"echo": <payload>, "action": ...}`
batch   collects requests until one says `{"flush": true}`, then answers all in reverse order
raw     writes the bytes that `{"hex": ...}` gives to the connection, frame or not
late    answers after `{"seconds": ...}`
silent  answers nothing
"""

import sys
import threading
import time

from ipc_framework import FrameworkServer, MessageType

APPLICATIONS = ["my_app", "shop", "raw_app"]

server = FrameworkServer(host="localhost", port=int(sys.argv[1]))
waiting = []


def connection_of(message):
    return server.connection_manager.get_connection(message.payload.get("connection_id"))


def answer(message, payload):
    server.send_to_connection(connection_of(message), message.create_response(payload))


def on_api(message):
    answer(message, {"echo": message.payload, "action": message.payload.get("action")})


def on_batch(message):
    waiting.append(message)
    if message.payload.get("flush"):
        for held in reversed(waiting):
            answer(held, {"n": held.payload["n"]})
        waiting.clear()


def on_raw(message):
    connection_of(message).sendall(bytes.fromhex(message.payload["hex"]))


def on_late(message):
    def later():
        time.sleep(message.payload["seconds"])
        answer(message, {"late": True})

    threading.Thread(target=later, daemon=True).start()


for app_id in APPLICATIONS:
    app = server.create_application(app_id)
    handlers = {"api": on_api, "batch": on_batch, "raw": on_raw, "late": on_late}
    for channel_id, handler in handlers.items():
        app.create_channel(channel_id).set_handler(MessageType.REQUEST, handler)
    app.create_channel("silent")

server.start()
print(f"serving on {server.server_socket.getsockname()[1]}", flush=True)
sys.stdin.read()
