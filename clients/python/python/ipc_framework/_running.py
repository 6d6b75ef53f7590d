"""What becomes of servers when the main program ends or the process forks."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # Its own end comes after ours, so that handlers may use it.
import logging
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, List, Set

if TYPE_CHECKING:
    from .server import FrameworkServer

logger = logging.getLogger("ipc_framework")

_servers: Set[FrameworkServer] = set()
_known: weakref.WeakSet[FrameworkServer] = weakref.WeakSet()
_leaked: List[object] = []


def keep(server: FrameworkServer) -> None:
    """A server runs: it lives until it is stopped."""
    _servers.add(server)
    _known.add(server)


def forget(server: FrameworkServer) -> None:
    """A server has ended."""
    _servers.discard(server)


def leak(*objects: object) -> None:
    """Keeps what may not be dropped in this process."""
    _leaked.extend(objects)


def _at_end() -> None:
    """The main program has ended. A program whose last line starts a server wants it to serve;
    one that failed, or an interactive one that is left, wants to end."""
    failed = getattr(sys, "last_value", None) is not None or hasattr(sys, "ps1")
    for server in list(_servers):
        try:
            if server.running and not server.daemon and not failed:
                logger.warning(
                    "the main program has ended and the server on port %s still serves; end it by "
                    "Ctrl-C or stop(), or make it with daemon=True",
                    server.port,
                )
                server.wait()
        except KeyboardInterrupt:
            pass
        server.stop()


def _after_fork() -> None:
    for server in list(_known):
        server._left_behind()
    _servers.clear()


# The one of `threading` comes while threads may still be started; it is what
# `concurrent.futures` uses.
getattr(threading, "_register_atexit", atexit.register)(_at_end)
os.register_at_fork(after_in_child=_after_fork)
