"""`ipc-file [sim]`: uploads and downloads files with the application `file_share`; no file is really transferred."""

from __future__ import annotations

import random
import sys
import time
from typing import List, Optional

from .. import FrameworkClient, Message
from ._options import ask, connected, endpoint, interact, parser

SAMPLES = (
    ("document.pdf", 1_024_000),
    ("image.jpg", 2_048_000),
    ("video.mp4", 50_000_000),
    ("data.csv", 512_000),
    ("code.zip", 1_536_000),
)


class FileClient:
    def __init__(self, name: str, client: FrameworkClient) -> None:
        self.name = name
        self.client = client
        self.uploaded: List[str] = []

    def connect(self) -> bool:
        if not connected(self.client):
            return False
        print(f"File client '{self.name}' connected")
        self.client.subscribe("status", self.show_status)
        return True

    def show_status(self, message: Message) -> None:
        status = message.payload
        if status.get("type") == "upload_progress":
            print(f"[STATUS] Upload {status.get('filename')}: {status.get('progress')}% - {status.get('status')}")

    def upload(self, filename: str, size: int) -> None:
        print(f"Uploading file: {filename} ({size} bytes)")
        self.client.request("upload", {"filename": filename, "size": size, "client": self.name})
        self.uploaded.append(filename)
        print(f"Upload request sent for {filename}")

    def download(self, filename: str) -> bool:
        print(f"Requesting download: {filename}")
        # Servers of the published package find the requester by the connection's id.
        question = {"filename": filename, "client": self.name, "connection_id": self.client.connection_id}
        answer = self.client.send_request("download", question, timeout=5.0)
        if answer is None:
            print(f"Download request timed out for {filename}")
            return False
        if "download_url" not in answer.payload:
            print(f"Download refused: {answer.payload.get('error', answer.payload)}")
            return False
        seconds = int(answer.payload.get("expires_at", 0) - time.time())
        print(f"Download ready:\n  File: {filename}\n  URL: {answer.payload['download_url']}")
        print(f"  Expires in: {seconds} seconds")
        return True

    def list_files(self) -> None:
        print("Uploaded files:" if self.uploaded else "No files uploaded yet")
        for number, filename in enumerate(self.uploaded, 1):
            print(f"  {number}. {filename}")

    def disconnect(self) -> None:
        self.client.disconnect()
        print(f"File client '{self.name}' disconnected")


def simulate(clients: List[FileClient]) -> None:
    clients = [client for client in clients if client.connect()]
    if not clients:
        sys.exit(1)
    print(f"\n=== Starting file operations with {len(clients)} clients ===\n")
    for client in clients:
        for filename, size in random.sample(SAMPLES, random.randint(1, 3)):
            client.upload(f"{client.name}_{filename}", size)
            time.sleep(0.2)
    print("\n=== Upload phase completed ===\n")
    for client in clients:
        print(f"\n--- {client.name} downloads ---")
        client.list_files()
        for other in clients:
            if other is not client:
                client.download(random.choice(other.uploaded))
    print("\n=== File operations completed ===")
    for client in clients:
        client.disconnect()


def obey(client: FileClient, command: str, words: List[str]) -> bool:
    if command == "upload" and len(words) == 2 and words[1].isdigit():
        client.upload(words[0], int(words[1]))
    elif command == "download" and len(words) == 1:
        client.download(words[0])
    elif command == "list":
        client.list_files()
    else:
        return False
    return True


def interact_with(client: FileClient) -> None:
    commands = [
        ("upload <filename> <size>", "Upload a file"),
        ("download <filename>", "Download a file"),
        ("list", "List uploaded files"),
    ]
    interact(client, "File Sharing Client", commands, lambda command, words: obey(client, command, words))


def main(arguments: Optional[List[str]] = None) -> None:
    made = parser("ipc-file", "Uploads and downloads files with the application file_share; none are transferred.")
    made.add_argument("mode", nargs="?", choices=["sim"], help="three clients do it by themselves")
    options = made.parse_args(arguments)

    def client(name: str) -> FileClient:
        return FileClient(name, FrameworkClient("file_share", **endpoint(options)))

    if options.mode == "sim":
        simulate([client(f"Client_{number}") for number in (1, 2, 3)])
    else:
        interact_with(client(ask("Enter client name: ") or "InteractiveClient"))


if __name__ == "__main__":
    main()
