"""Greenlets in the place of threads, as gevent and eventlet make them.

After `monkey.patch_all()` a thread of `threading` is a greenlet, and all greenlets share one real thread, which a
native call that blocks would stop. Here real threads make such calls, and the greenlet that waits for one yields to
the hub. Without gevent and eventlet everything is called directly.

Pipes are read, written and closed by `posix`: what gevent and eventlet put into `os` uses the hub, which a real thread
does not have, and a child not yet.
"""

from __future__ import annotations

import posix
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Iterator, List, Optional, TypeVar

if TYPE_CHECKING:
    import asyncio

Result = TypeVar("Result")


def _gevent() -> Any:
    """Returns `gevent.monkey` if it has replaced threads."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey if monkey is not None and monkey.is_module_patched("threading") else None


def _eventlet() -> Any:
    """Returns `eventlet.patcher` if it has replaced threads."""
    patcher: Any = sys.modules.get("eventlet.patcher")
    return patcher if patcher is not None and patcher.is_monkey_patched("thread") else None


def is_cooperative() -> bool:
    """Returns whether `threading` makes greenlets."""
    return _gevent() is not None or _eventlet() is not None


def start_thread(work: Callable[[], None]) -> None:
    """Starts a real daemon thread."""
    gevent, eventlet = _gevent(), _eventlet()
    if gevent is not None:
        gevent.get_original("_thread", "start_new_thread")(work, ())
    else:
        thread = threading if eventlet is None else eventlet.original("threading")
        thread.Thread(target=work, daemon=True).start()


def wait_readable(descriptor: int) -> None:
    """Lets other greenlets go on until the descriptor is readable."""
    if _gevent() is not None:
        import gevent.socket  # type: ignore[import-not-found, import-untyped, unused-ignore]

        gevent.socket.wait_read(descriptor)
    else:
        import eventlet.hubs  # type: ignore[import-not-found, import-untyped, unused-ignore]

        eventlet.hubs.trampoline(descriptor, read=True)


def _wait_own(reader: int, process_id: int) -> None:
    """Waits for a notice. A fork copies greenlets, and the copy must end without taking its parent's notice."""
    wait_readable(reader)
    if posix.getpid() != process_id:
        raise SystemExit


#: The greenlets of this forked child that are copies of its parent's.
_copies: List[Any] = []


def ends_as_thread(work: Callable[..., None]) -> Callable[..., None]:
    """Returns the function for a thread of `threading` that may be a greenlet. A copy of it in a forked child never
    ends: `threading` does not know that thread there, and would fail to remove it."""
    if not is_cooperative():
        return work
    process_id = posix.getpid()

    def run(*arguments: Any) -> None:
        try:
            work(*arguments)
        finally:
            if posix.getpid() != process_id:
                _stay()

    return run


def _stay() -> None:
    """Lets other greenlets go on for ever."""
    import greenlet  # type: ignore[import-not-found, import-untyped, unused-ignore]

    # One to which nothing refers would be ended.
    copy = greenlet.getcurrent()
    _copies.append(copy)
    while True:
        copy.parent.switch()


def call(work: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a native function that blocks, while other greenlets go on."""
    if not is_cooperative():
        return work(*arguments)
    results: List[Result] = []
    errors: List[BaseException] = []
    process_id = posix.getpid()
    reader, writer = posix.pipe()

    def run() -> None:
        try:
            results.append(work(*arguments))
        except BaseException as error:
            errors.append(error)
        finally:
            # The end of the pipe would be no notice: a forked child may hold a copy of it.
            _tell(writer)
            posix.close(writer)

    try:
        try:
            start_thread(run)
        except RuntimeError:
            # The interpreter is about to end, and starts no more threads.
            run()
        _wait_own(reader, process_id)
    finally:
        posix.close(reader)
    if errors:
        raise errors[0]
    return results[0]


def _tell(writer: int) -> None:
    """Wakes the greenlet at the other end of a pipe."""
    try:
        posix.write(writer, b".")
    except BrokenPipeError:
        # Nothing waits any more.
        pass


def begin(work: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
    """Calls a native function that blocks, while the event loop of the caller goes on. The thread is not one of the
    loop's executor, because the program's own calls may have all of those, and `asyncio.run` waits for each of them."""
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(settled: Callable[[Any], None], outcome: Any) -> None:
        # A caller that was cancelled does not wait any more.
        if not future.done():
            settled(outcome)

    def run() -> None:
        settled: Callable[[Any], None] = future.set_result
        outcome: Any
        try:
            outcome = work(*arguments)
        except BaseException as error:
            settled, outcome = future.set_exception, error
        try:
            loop.call_soon_threadsafe(settle, settled, outcome)
        except RuntimeError:
            # The loop is closed, and nothing waits any more.
            pass

    try:
        start_thread(run)
    except RuntimeError:
        # The system, or an interpreter that is about to end, starts no more threads.
        run()
    return future


def each(take: Callable[[], Optional[Result]]) -> Iterator[Result]:
    """Yields the results of a native function that blocks, up to None, while other greenlets go on."""
    if not is_cooperative():
        yield from iter(take, None)  # type: ignore[arg-type, unused-ignore]
        return
    taken: Deque[Optional[Result]] = deque()
    process_id = posix.getpid()
    asked, ask = posix.pipe()
    told, tell = posix.pipe()

    def run() -> None:
        # Only what is asked for is taken, because another thread may be free for the next one.
        while posix.read(asked, 1) == b".":
            taken.append(take())
            _tell(tell)
        posix.close(asked)
        posix.close(tell)

    start_thread(run)
    try:
        while True:
            posix.write(ask, b".")
            _wait_own(told, process_id)
            posix.read(told, 1)
            result = taken.popleft()
            if result is None:
                return
            yield result
    finally:
        # Its end would be no notice here either.
        if posix.getpid() == process_id:
            posix.write(ask, b"!")
        posix.close(ask)
        posix.close(told)
