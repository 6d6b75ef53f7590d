"""The common parts of the programs: their command lines and their prompts."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

from ..client import FrameworkClient


class Console(Protocol):
    """A program that a user drives by commands."""

    name: str

    def connect(self) -> bool: ...
    def disconnect(self) -> None: ...


def parser(program: str, description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--host", default="localhost", help="the server's host (default: %(default)s)")
    made.add_argument("--port", type=int, default=8888, help="its port (default: %(default)s)")
    made.add_argument("--unix", metavar="PATH", help="its Unix socket, in place of host and port")
    return made


def endpoint(options: argparse.Namespace) -> Dict[str, Any]:
    """Returns arguments for `FrameworkClient`. The token is in `IPC_TOKEN`, because all users can see command lines."""
    where = {"host": options.host, "port": options.port, "unix": options.unix}
    return {**where, "token": os.environ.get("IPC_TOKEN")}


def connected(client: FrameworkClient) -> bool:
    """Connects, and prints the reason if that fails."""
    if client.connect():
        return True
    print(f"Failed to connect to server: {client.last_error}", file=sys.stderr)
    return False


def ask(prompt: str) -> Optional[str]:
    """Returns a line that the user types; None at the end."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        return None


def interact(
    console: Console, title: str, commands: List[Tuple[str, str]], obey: Callable[[str, List[str]], bool]
) -> None:
    """Connects, and passes the user's commands to `obey`, which returns False for a wrong one, until `quit`."""
    if not console.connect():
        sys.exit(1)
    print(f"\n=== {title} ===")
    print("Commands:")
    commands = [*commands, ("quit", "Exit")]
    width = max(len(usage) for usage, _ in commands)
    for usage, meaning in commands:
        print(f"  {usage:{width}}  - {meaning}")
    try:
        while (line := ask(f"\n[{console.name}] > ")) is not None:
            command, *words = line.split() or [""]
            if command == "quit":
                break
            try:
                if command and not obey(command, words):
                    print("Invalid command or missing arguments")
            except ValueError:
                print("Invalid value; use a number")
    finally:
        console.disconnect()
