"""The line for Python with which `ipc serve` greets makes a client that connects, however the server was started."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest

from certificates import Certificates
from ipc_framework import FrameworkClient
from ipc_framework.tls import Tls
from peers import RustServer

TOKEN = "secret"


def answer(server: RustServer, **files: pathlib.Path) -> Any:
    """What the client of the hint gets, with the placeholders filled in."""
    (found, *_) = server.expect(r"from Python, .*: (FrameworkClient\(.*\))\n")
    hint = found[1].replace('"TOKEN"', repr(TOKEN))
    for placeholder, path in files.items():
        hint = re.sub(f'"{placeholder.replace("_", ".")}"', repr(str(path)), hint)
    client = eval(hint, {"FrameworkClient": FrameworkClient, "Tls": Tls, "open": open})
    client.connect()
    try:
        return client.send_request("echo", 7).payload
    finally:
        client.disconnect()


@pytest.mark.parametrize("speaks", ["plain", "tls", "mutual"])
@pytest.mark.parametrize("secret", ["none", "variable", "file"])
def test_the_hint_connects(tmp_path: pathlib.Path, speaks: str, secret: str) -> None:
    made = Certificates(tmp_path / "certificates")
    flags = {"plain": [], "tls": made.flags(), "mutual": made.flags(mutual=True)}
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(f"{TOKEN}\n")
    with_file = ["--token-file", token] if secret == "file" else []
    environment = {"IPC_TOKEN": TOKEN} if secret == "variable" else {}
    server = RustServer(*flags[speaks], *with_file, **environment)
    try:
        assert answer(server, CA_pem=made.ca, CLIENT_pem=made.client, CLIENT_key=made.client_key) == 7
    finally:
        server.kill()
