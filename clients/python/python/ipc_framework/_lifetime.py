"""What becomes of open connections when the interpreter ends or the process forks."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

from . import _native


class Connected(Protocol):
    """A client, as far as its end is concerned."""

    def _end_with_process(self) -> None:
        """The interpreter ends: drain, briefly, and leave no thread in native code."""

    def _left_behind(self) -> None:
        """This is a forked child: the connection and its threads are the parent's."""


_clients: weakref.WeakSet[Connected] = weakref.WeakSet()


def keep(client: Connected) -> None:
    _clients.add(client)


def _at_exit() -> None:
    for client in list(_clients):
        client._end_with_process()
    _native.begin_end()


def _after_fork() -> None:
    _native.after_fork()
    for client in list(_clients):
        client._left_behind()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork)
