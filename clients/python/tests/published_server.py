"""A server as a program of the published package writes it: `python published_server.py PORT`, until it is killed.

It is run with that package, and with this one.
"""

import sys
import threading
import time

from ipc_framework import FrameworkServer, MessageType

server = FrameworkServer(host="127.0.0.1", port=int(sys.argv[1]))
app = server.create_application("bench", "What the tests use")


def answer(message, payload):
    connection = server.connection_manager.get_connection(message.payload.get("connection_id"))
    server.send_to_connection(connection, message.create_response(payload))


def on_late(message):
    threading.Thread(target=lambda: (time.sleep(message.payload["seconds"]), answer(message, "late"))).start()


app.create_channel("echo").set_handler(MessageType.REQUEST, lambda message: answer(message, message.payload))
app.create_channel("late").set_handler(MessageType.REQUEST, on_late)
noted = []
notes = app.create_channel("notes")
notes.set_handler(MessageType.NOTIFICATION, lambda message: noted.append(message.payload))
notes.set_handler(MessageType.REQUEST, lambda message: answer(message, noted))
app.create_channel("silent").set_handler(MessageType.REQUEST, lambda message: None)

server.start()
print(f"listening on {server.port} ", flush=True)
while True:
    time.sleep(60)
