"""`ipc-server`: a server with the applications of `ipc-chat`, `ipc-file` and `ipc-monitor`."""

from __future__ import annotations

import sys
import time
from typing import Any, Dict, List, Optional

from .. import FrameworkServer, Message, MessageType
from ..exceptions import IPCError
from ._options import parser

ALERT_ABOVE = 80


def tell(server: FrameworkServer, app_id: str, channel_id: str, payload: Dict[str, Any]) -> None:
    """Sends a notification to all subscribers of a channel."""
    application = server.get_application(app_id)
    channel = application.get_channel(channel_id) if application else None
    if channel is not None:
        message = Message("", app_id, channel_id, MessageType.NOTIFICATION, payload, 0)
        server._handle_publish(message, channel)


def setup_chat_application(server: FrameworkServer) -> None:
    application = server.create_application("chat_app", "Chat Application")

    def on_message(message: Message) -> None:
        username, text = message.payload.get("username", "Anonymous"), message.payload.get("text", "")
        print(f"[{message.channel_id}] Chat message from {username}: {text}")
        said = {"type": "chat_message", "username": username, "text": text, "timestamp": message.timestamp}
        tell(server, message.app_id, message.channel_id, said)

    def on_join(message: Message) -> None:
        username = message.payload.get("username", "Anonymous")
        print(f"[{message.channel_id}] User {username} joined")
        joined = {"type": "user_joined", "username": username, "timestamp": time.time()}
        tell(server, message.app_id, message.channel_id, joined)

    for channel_id in ("general", "tech_talk", "random"):
        channel = application.create_channel(channel_id)
        channel.set_handler(MessageType.REQUEST, on_message)
        channel.set_handler(MessageType.NOTIFICATION, on_join)


def setup_file_sharing_application(server: FrameworkServer) -> None:
    application = server.create_application("file_share", "File Sharing Service")
    application.create_channel("status")

    def on_upload(message: Message) -> None:
        filename = message.payload.get("filename", "unknown")
        print(f"[file_share:upload] File upload request: {filename} ({message.payload.get('size', 0)} bytes)")
        done = {"type": "upload_progress", "filename": filename, "progress": 100, "status": "completed"}
        tell(server, message.app_id, "status", done)

    def on_download(message: Message) -> None:
        filename = message.payload.get("filename", "unknown")
        print(f"[file_share:download] File download request: {filename}")
        url = f"http://example.com/files/{filename}"
        offer = {"filename": filename, "download_url": url, "expires_at": time.time() + 3600}
        # Without a connection the answer goes to the requester.
        server.send_to_connection(None, message.create_response(offer))

    application.create_channel("upload").set_handler(MessageType.REQUEST, on_upload)
    application.create_channel("download").set_handler(MessageType.REQUEST, on_download)


def setup_monitoring_application(server: FrameworkServer) -> None:
    application = server.create_application("monitoring", "System Monitoring")
    application.create_channel("alerts")

    def on_metric(message: Message) -> None:
        metric, value = message.payload.get("metric", "unknown"), message.payload.get("value", 0)
        print(f"[monitoring:metrics] Metric {metric}: {value}")
        if metric == "cpu_usage" and value > ALERT_ABOVE:
            alert = {"type": "high_cpu_alert", "metric": metric, "value": value, "threshold": ALERT_ABOVE}
            tell(server, message.app_id, "alerts", {**alert, "severity": "warning"})

    application.create_channel("metrics").set_handler(MessageType.NOTIFICATION, on_metric)


def show(server: FrameworkServer) -> None:
    stats = server.get_stats()
    print("\n--- Server Stats ---")
    print(f"Active connections: {stats['total_connections']}")
    print(f"Active applications: {stats['total_applications']}")
    for app_id, application in server.list_applications().items():
        print(f"  {app_id}: {application['connections']} connections")
        for channel_id, channel in server.list_channels(app_id).items():
            print(f"    {channel_id}: {channel['subscribers']} subscribers")


def main(arguments: Optional[List[str]] = None) -> None:
    made = parser("ipc-server", "A server with the applications of ipc-chat, ipc-file and ipc-monitor.")
    options = made.parse_args(arguments)
    server = FrameworkServer(host=options.host, port=options.port)
    print("Setting up IPC Framework Server...")
    setup_chat_application(server)
    setup_file_sharing_application(server)
    setup_monitoring_application(server)
    print("Applications configured:")
    for app_id, application in server.list_applications().items():
        print(f"  - {app_id} ({application['name']}): {len(application['channels'])} channels")
        for channel_id in application["channels"]:
            print(f"    * {channel_id}")
    try:
        server.start()
    except IPCError as error:
        sys.exit(f"ipc-server: {error}")
    print("\nServer is running. Press Ctrl+C to stop.")
    try:
        while True:
            time.sleep(10)
            show(server)
    except KeyboardInterrupt:
        print("\nShutting down server...")
    finally:
        server.stop()
        print("Server stopped.")


if __name__ == "__main__":
    main()
