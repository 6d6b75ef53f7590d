"""What the tests share."""

from __future__ import annotations

import signal
from typing import Any, Callable, Dict, Iterator, List

import pytest

from ipc_framework import FrameworkServer
from peers import RustServer

# A background job of a script and `nohup` ignore SIGINT, and every child inherits that. Programs of these tests are
# interrupted as a user would interrupt them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def rust() -> Iterator[RustServer]:
    started = RustServer()
    yield started
    started.stop()


@pytest.fixture(scope="module", params=["tcp", "unix"])
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dict[str, Any]]:
    """The address of a server of its own, for clients."""
    path = tmp_path_factory.mktemp("server") / "ipc.sock"
    server = RustServer("--unix", path)
    yield server.arguments if request.param == "tcp" else {"unix": str(path)}
    server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., FrameworkServer]]:
    """Makes servers on free ports, and stops them when the test ends."""
    made: List[FrameworkServer] = []

    def make(cls: Any = FrameworkServer, **options: Any) -> FrameworkServer:
        server: FrameworkServer = cls(port=0, **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()
