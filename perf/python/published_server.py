"""A server of the published package, or of the one that takes its place, answering `echo` as the
documentation shows."""

import threading

from ipc_framework import FrameworkServer, MessageType

server = FrameworkServer("127.0.0.1", 0, max_connections=1000)
bench = server.create_application("bench")
channel = bench.create_channel("echo")
bench.create_channel("news")


def echo(message):
    connection = server.connection_manager.get_connection(message.payload["connection_id"])
    server.send_to_connection(connection, message.create_response(message.payload))


channel.set_handler(MessageType.REQUEST, echo)
server.start()
# The published one keeps saying 0.
port = server.port or server.server_socket.getsockname()[1]
print(f"listening on 127.0.0.1:{port}", flush=True)
threading.Event().wait()
