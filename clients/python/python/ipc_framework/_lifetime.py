"""Open connections when the interpreter ends or the process forks."""

from __future__ import annotations

import atexit
import os
import posix
import sys
import weakref
from typing import Protocol

from . import _native


class Connected(Protocol):
    """A client that is to be ended."""

    def _end_with_process(self) -> None:
        """Drains briefly before the interpreter ends, and leaves no thread in native code."""

    def _left_behind(self) -> None:
        """Leaves the connection and its threads to the parent, in a forked child."""


_clients: weakref.WeakSet[Connected] = weakref.WeakSet()
#: The process in which multiprocessing ends the clients.
_ends_with = 0


def keep(client: Connected) -> None:
    _clients.add(client)
    _end_with_child_of_multiprocessing()


def _end_with_child_of_multiprocessing() -> None:
    """A forked child of multiprocessing ends without `atexit`, but runs the finalizers that it has made itself."""
    global _ends_with
    if "multiprocessing.util" not in sys.modules or _ends_with == os.getpid():
        return
    from multiprocessing import parent_process, util

    if parent_process() is not None:
        _ends_with = os.getpid()
        util.Finalize(None, _end_clients, exitpriority=0)


def _end_clients() -> None:
    for client in list(_clients):
        client._end_with_process()


def _at_exit() -> None:
    _end_clients()
    _native.begin_end()


def _after_fork() -> None:
    # As long as the child held them, nobody would notice that the parent has ended. `os.close` of gevent would leave
    # that to the hub, which may never run in the child.
    for socket in _native.after_fork():
        try:
            posix.close(socket)
        except OSError:
            # The program has closed it behind the library's back.
            pass
    for client in list(_clients):
        client._left_behind()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
