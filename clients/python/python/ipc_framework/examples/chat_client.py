"""`ipc-chat NAME`: talks to everybody in the channels of the application `chat_app`."""

from __future__ import annotations

import sys
from typing import List, Optional

from .. import FrameworkClient, Message
from ._options import ask, connected, endpoint, parser

CHANNELS = ("general", "tech_talk", "random")


class ChatClient:
    def __init__(self, username: str, client: FrameworkClient) -> None:
        self.username = username
        self.client = client
        self.current_channel = CHANNELS[0]
        self.running = False

    def connect(self) -> bool:
        if not connected(self.client):
            return False
        print(f"Connected as {self.username}")
        for channel in CHANNELS:
            self.client.subscribe(channel, self.show)
            self.join(channel)
        self.switch_channel(self.current_channel)
        return True

    def show(self, message: Message) -> None:
        payload = message.payload
        username = payload.get("username", "Unknown")
        if username == self.username:
            return
        if payload.get("type") == "chat_message":
            print(f"\n[{message.channel_id}] {username}: {payload.get('text', '')}")
        elif payload.get("type") == "user_joined":
            print(f"\n[{message.channel_id}] *** {username} joined the channel ***")
        if self.running:
            print(self.prompt(), end="", flush=True)

    def join(self, channel: str) -> None:
        self.client.notify(channel, {"type": "user_join", "username": self.username})

    def switch_channel(self, channel: str) -> None:
        self.current_channel = channel
        print(f"Switched to #{channel}")
        self.join(channel)

    def prompt(self) -> str:
        return f"[{self.current_channel}] {self.username}: "

    def start_chat(self) -> None:
        self.running = True
        print("\n=== Chat Client ===")
        print("Commands:")
        print(f"  /join <channel>  - Switch to a channel ({', '.join(CHANNELS)})")
        print("  /who, /channels  - Who you are, what there is")
        print("  /quit            - Exit the chat")
        print("  <message>        - Send a message to the current channel")
        print(f"\nYou are in #{self.current_channel}")
        try:
            while self.running:
                line = ask(self.prompt())
                if line is None:
                    break
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.client.request(self.current_channel, {"username": self.username, "text": line})
        finally:
            self.running = False
            self.client.disconnect()
            print("\nDisconnected from chat server.")

    def command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name == "/quit":
            self.running = False
        elif name == "/join" and argument in CHANNELS:
            self.switch_channel(argument)
        elif name in ("/join", "/channels"):
            print(f"Available channels: {', '.join(CHANNELS)}")
            print(f"Current channel: {self.current_channel}")
        elif name == "/who":
            print(f"You are {self.username} in #{self.current_channel}")
        else:
            print("Unknown command. Available commands: /join, /channels, /who, /quit")


def main(arguments: Optional[List[str]] = None) -> None:
    made = parser("ipc-chat", "Talks to everybody in the channels of the application chat_app.")
    made.add_argument("username")
    options = made.parse_args(arguments)
    chat = ChatClient(options.username, FrameworkClient("chat_app", **endpoint(options)))
    if not chat.connect():
        sys.exit(1)
    chat.start_chat()


if __name__ == "__main__":
    main()
