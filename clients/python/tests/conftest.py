"""What the tests share."""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

import pytest

from ipc_framework import FrameworkServer


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
