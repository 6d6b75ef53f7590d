"""`ipc-demo`: every pattern in a few seconds, with a server and four clients in one process."""

from __future__ import annotations

import threading
from typing import List, Optional, Tuple

from . import FrameworkClient, FrameworkServer, Message, MessageType
from .examples._options import parser
from .exceptions import IPCError

STEP_SECONDS_MAX = 10.0


class Shown:
    """Counts what handlers have shown, so that each step waits exactly for its own messages."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def show(self, text: str) -> None:
        print(text, flush=True)
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.count >= count, STEP_SECONDS_MAX):
                raise RuntimeError(f"{count - self.count} of {count} messages did not arrive")
            self.count -= count


def set_up(server: FrameworkServer, shown: Shown) -> None:
    chat = server.create_application("chat_app", "Chat Application")
    files = server.create_application("file_share", "File Sharing")
    monitoring = server.create_application("monitoring", "System Monitor")
    chat.create_channel("announcements")
    files.create_channel("download")
    alerts = monitoring.create_channel("alerts")

    def on_chat(message: Message) -> None:
        shown.show(f"💬 [Chat] {message.payload['username']}: {message.payload['text']}")

    def on_upload(message: Message) -> None:
        shown.show(f"📁 [File] {message.payload['action']}: {message.payload['filename']}")
        # Without a connection the answer goes to the requester.
        server.send_to_connection(None, message.create_response({"stored": message.payload["filename"]}))

    def on_metric(message: Message) -> None:
        metric, value = message.payload["metric"], message.payload["value"]
        shown.show(f"📊 [Metrics] {metric}: {value}%")
        if metric == "cpu_usage" and value > 80:
            alert = {"type": "high_cpu_alert", "metric": metric, "value": value, "severity": "warning"}
            server._handle_publish(Message("", "monitoring", "alerts", MessageType.NOTIFICATION, alert, 0), alerts)

    chat.create_channel("general").set_handler(MessageType.REQUEST, on_chat)
    files.create_channel("upload").set_handler(MessageType.REQUEST, on_upload)
    monitoring.create_channel("metrics").set_handler(MessageType.NOTIFICATION, on_metric)


def run_demo(host: str = "localhost", port: int = 8888) -> None:
    print("🚀 IPC Framework Demo")
    print("=" * 50)
    shown = Shown()
    server = FrameworkServer(host=host, port=port)
    set_up(server, shown)
    print("\n📡 Starting IPC Server...")
    server.start()
    try:
        print("✅ Server started successfully!")
        for app_id, application in server.list_applications().items():
            print(f"  📱 {app_id} ({application['name']}): {', '.join(application['channels'])}")
        converse(server, shown, host, server.port)
    finally:
        server.stop()
        print("🛑 Server stopped")
    print("\n🎉 Demo completed!")


def converse(server: FrameworkServer, shown: Shown, host: str, port: int) -> None:
    print("\n👥 Creating Clients...")
    named: List[Tuple[str, FrameworkClient]] = []
    for name, app_id in (
        ("Alice", "chat_app"),
        ("Bob", "chat_app"),
        ("FileClient", "file_share"),
        ("Monitor", "monitoring"),
    ):
        client = FrameworkClient(app_id, host=host, port=port)
        if not client.connect():
            raise client.last_error or RuntimeError(f"{name} failed to connect")
        named.append((name, client))
        print(f"✅ {name} connected")
    (_, alice), (_, bob), (_, files), (_, monitor) = named

    print("\n💬 Requests that want no answer:")
    alice.request("general", {"username": "Alice", "text": "Hello everyone!"})
    shown.wait(1)
    bob.request("general", {"username": "Bob", "text": "Hi Alice! How are you?"})
    shown.wait(1)

    print("\n📁 Requests that want one:")
    answer = files.send_request("upload", {"action": "upload", "filename": "document.pdf"})
    print(f"✅ {answer.payload if answer else 'no answer'}")
    shown.wait(1)

    print("\n📊 Notifications, and an alert:")
    monitor.subscribe("alerts", lambda message: shown.show(f"🚨 ALERT: {message.payload['metric']} is too high"))
    for metric, value in (("cpu_usage", 45), ("memory_usage", 62), ("cpu_usage", 85)):
        monitor.notify("metrics", {"metric": metric, "value": value})
    shown.wait(4)

    print("\n📢 Publish and subscribe:")
    for client in (alice, bob):
        client.subscribe("announcements", lambda message: shown.show(f"📢 ANNOUNCEMENT: {message.payload['text']}"))
        client.flush()
    alice.publish("announcements", {"text": "Server maintenance tonight at 11 PM"})
    shown.wait(2)

    print("\n📈 Server Statistics:")
    stats = server.get_stats()
    print(f"  🔗 Active connections: {stats['total_connections']}")
    for app_id in server.list_applications():
        for channel_id, channel in server.list_channels(app_id).items():
            print(f"  📺 {app_id}/{channel_id}: {channel['subscribers']} subscribers")

    print("\n⚠️  Errors:")
    refused = bob.send_request("nonexistent_channel", {"text": "anybody there?"})
    print(f"🚫 Nobody serves that channel: {refused.payload['code'] if refused else 'no answer'}")
    alice.disconnect()
    try:
        alice.request("general", {"text": "This fails"})
    except IPCError as error:
        print(f"🚫 Expected error from a disconnected client: {type(error).__name__}")

    print("\n🧹 Cleaning up...")
    for name, client in named:
        client.disconnect()
        print(f"👋 {name} disconnected")


def main(arguments: Optional[List[str]] = None) -> None:
    made = parser("ipc-demo", "Every pattern in a few seconds, with a server and four clients in one process.")
    options = made.parse_args(arguments)
    try:
        run_demo(options.host, options.port)
    except KeyboardInterrupt:
        print("\n⏹️  Demo interrupted by user")
    except IPCError as error:
        raise SystemExit(f"ipc-demo: {error}") from error


if __name__ == "__main__":
    main()
