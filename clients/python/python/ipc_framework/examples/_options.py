"""What the programs have in common on their command lines."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, Optional

from ..client import FrameworkClient


def parser(program: str, description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument("--host", default="localhost", help="the server's host (default: %(default)s)")
    made.add_argument("--port", type=int, default=8888, help="its port (default: %(default)s)")
    made.add_argument("--unix", metavar="PATH", help="its Unix socket, in place of host and port")
    return made


def endpoint(options: argparse.Namespace) -> Dict[str, Any]:
    """As `FrameworkClient` takes it. A token comes from `IPC_TOKEN`: on the command line all users could read it."""
    where = {"host": options.host, "port": options.port, "unix": options.unix}
    return {**where, "token": os.environ.get("IPC_TOKEN")}


def connected(client: FrameworkClient) -> bool:
    """Connects; if that fails says why."""
    if client.connect():
        return True
    print(f"Failed to connect to server: {client.last_error}", file=sys.stderr)
    return False


def ask(prompt: str) -> Optional[str]:
    """A line that somebody types; None at the end."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        return None
