"""Running servers when the main program ends or the process forks."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # Its own end comes after ours, so that handlers may use it.
import contextlib
import logging
import os
import signal
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Iterator, List, Optional, Set

if TYPE_CHECKING:
    from .server import FrameworkServer

logger = logging.getLogger("ipc_framework")

_servers: Set[FrameworkServer] = set()
_known: weakref.WeakSet[FrameworkServer] = weakref.WeakSet()
_leaked: List[object] = []
#: Number of forks between the first process and this one, which tells a handler whether it runs in a child.
forks = 0
#: The signals that a thread blocked before it forked.
_blocked = threading.local()


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, which ends a server as Ctrl-C does."""


def _terminate(*_: object) -> None:
    # A second one ends the process at once, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raises `Terminated` when SIGTERM comes, unless the program handles it in its own way. Process 1 of a container
    would not even be ended by a SIGTERM that nothing handles."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def keep(server: FrameworkServer) -> None:
    """Keeps a running server alive until it is stopped."""
    _servers.add(server)
    _known.add(server)


def forget(server: FrameworkServer) -> None:
    """Releases a server that has ended."""
    _servers.discard(server)


def leak(*objects: object) -> None:
    """Keeps objects that must not be dropped in this process."""
    _leaked.extend(objects)


def end_if_forked(since: int, error: Optional[BaseException] = None) -> None:
    """Ends a forked child whose handler has returned to the server, as the child of a thread ends: the
    loop below belongs to the parent, which waits for the same sockets."""
    if forks == since:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        logger.error("a forked child ends", exc_info=error)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def is_last_line(frame: Optional[types.FrameType]) -> bool:
    """Returns whether the main program does nothing more after the call in this frame."""
    import dis

    while frame is not None:
        if frame.f_lineno < max(line for _, line in dis.findlinestarts(frame.f_code) if line):
            return False
        if frame.f_code.co_name == "<module>":
            return frame.f_globals.get("__name__") == "__main__"
        frame = frame.f_back
    return False


def _at_end() -> None:
    """Ends the servers after the main program. If its last line started a server, that goes on serving."""
    # After an earlier Ctrl-C it must not go on.
    may_hold = not hasattr(sys, "ps1") and getattr(sys, "last_type", None) is not KeyboardInterrupt
    for server in list(_servers):
        try:
            if server.running and server._holds_process and may_hold:
                logger.info("the main program has ended; port %s is served until Ctrl-C or SIGTERM", server.port)
                with terminable():
                    server.wait()
        except KeyboardInterrupt:
            pass
        thread = server.server_thread
        server.stop()
        if thread is not None:
            thread.interrupt()


def _after_fork() -> None:
    global forks
    forks += 1
    if signal.getsignal(signal.SIGTERM) is _terminate:
        # The child is no server: a pool that ends its workers by SIGTERM would wait for this one for ever.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock_terminate()
    for server in list(_known):
        server._left_behind()
    _servers.clear()


def _block_terminate() -> None:
    """Holds SIGTERM back while this thread forks. The child would otherwise lose one that comes before it has taken the
    handler away: Python drops a signal whose handler has changed since it came."""
    if signal.getsignal(signal.SIGTERM) is _terminate:
        _blocked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _unblock_terminate() -> None:
    mask = _blocked.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# The hook of `threading` runs while threads can still be started; `concurrent.futures` uses it too.
getattr(threading, "_register_atexit", atexit.register)(_at_end)
os.register_at_fork(before=_block_terminate, after_in_parent=_unblock_terminate, after_in_child=_after_fork)
