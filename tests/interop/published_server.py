"""The published server, with the channels that the Rust client's tests use, until standard input ends.

A port may be given, for one that takes another's place.
"""

import socket
import sys

from ipc_framework import FrameworkServer, MessageType


def answering(server, application, result):
    """A request handler as the package's own examples have them: the answer goes to the whole application."""

    def handler(request):
        answer = request.create_response(result(request.payload))
        for connection_id in server.connection_manager.get_connections_for_app(application.app_id):
            connection = server.connection_manager.get_connection(connection_id)
            if connection:
                server.send_to_connection(connection, answer)

    return handler


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    server = FrameworkServer("127.0.0.1", port)
    application = server.create_application("app", "The App")
    echo = application.create_channel("echo")
    echo.set_handler(MessageType.REQUEST, answering(server, application, lambda payload: payload))
    noted = []
    notes = application.create_channel("notes")
    notes.set_handler(MessageType.NOTIFICATION, lambda message: noted.append(message.payload))
    notes.set_handler(MessageType.REQUEST, answering(server, application, lambda _: list(noted)))
    server.start()
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr, flush=True)
    sys.stdin.read()
    server.stop()


main()
