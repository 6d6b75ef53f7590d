"""The published package's own server, answering `echo` as its documentation shows."""

import threading

from ipc_framework import FrameworkServer, MessageType

server = FrameworkServer("127.0.0.1", 0)
bench = server.create_application("bench")
channel = bench.create_channel("echo")
bench.create_channel("news")


def echo(message):
    connection = server.connection_manager.get_connection(message.payload["connection_id"])
    server.send_to_connection(connection, message.create_response(message.payload))


channel.set_handler(MessageType.REQUEST, echo)
server.start()
print(f"listening on 127.0.0.1:{server.server_socket.getsockname()[1]}", flush=True)
threading.Event().wait()
