"""The threads of a server: of its loop, its workers, and its coroutines."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Deque, Dict, NamedTuple, Optional

from . import _hub

if TYPE_CHECKING:
    import asyncio

    from . import _native
    from ._notices import Notices, Watch

logger = logging.getLogger("ipc_framework")

#: Seconds for which the end waits for a running handler when everything else has ended.
LINGER = 1.0


def wait_for(event: threading.Event, timeout: Optional[float]) -> bool:
    """Waits for an event, in steps if there is no timeout, so that Ctrl-C in the main thread is noticed even if it
    comes just when a wait begins."""
    if timeout is not None:
        return event.wait(timeout)
    while not event.wait(1.0):
        pass
    return True


def run_loop(loop: asyncio.AbstractEventLoop, run: Callable[[], object]) -> None:
    """Runs an event loop on this thread, and ends what is left of it. Every coroutine gets to its `finally`."""
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        run()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class Thread(threading.Thread):
    """A thread for which the main thread can wait. After a Ctrl-C in ``join``, older Pythons regard the
    thread as ended, and abort when it ends."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self._work: Optional[Callable[[], None]] = work

    def run(self) -> None:
        _hub.ends_as_thread(self._run)()

    def _run(self) -> None:
        try:
            assert self._work is not None
            self._work()
        finally:
            # It refers to the server, which refers to its threads.
            self._work = None
            self.ended.set()

    def leave(self, timeout: float = LINGER) -> bool:
        """Waits for its end, and returns without it if that takes too long, because nothing can end a handler."""
        has_ended = self.ended.wait(max(timeout, 0.0))
        if not has_ended:
            logger.warning("a handler does not return: the thread %s is left behind", self.name)
        return has_ended

    def interrupt(self) -> None:
        """Ends a handler that does not return, if it runs Python code. The interpreter is about to end, and
        could not do so with this thread between Python and native code."""
        if self.ident is not None and not self.ended.is_set():
            import ctypes

            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))
            self.ended.wait(LINGER)


class _Waiting(NamedTuple):
    """A coroutine that begins in the loop's next turn, its context, and the request that it answers."""

    coroutine: Coroutine[Any, Any, None]
    context: contextvars.Context
    origin: Optional[_native.Origin]


class Coroutines:
    """An asyncio loop and its thread, which start with the first coroutine, such as an ``async def`` handler."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: Optional[Thread] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        #: The real thread of the loop, which under gevent is another one than `_thread`.
        self._ident: Optional[int] = None
        #: None ends the loop. It needs no lock, which eventlet could not share between real threads.
        self._waiting: Deque[Optional[_Waiting]] = deque()
        self._is_woken = False
        self._tasks: Dict[asyncio.Task[None], Optional[Watch]] = {}
        self._notices: Optional[Notices] = None
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, None], origin: Optional[_native.Origin] = None) -> None:
        """Starts a coroutine, which is cancelled when nobody waits any more for the answer to its request."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = Thread(self._name, lambda: _hub.call(self._run))
                    self._thread.start()
        self._put(_Waiting(coroutine, contextvars.copy_context(), origin))

    def _put(self, waiting: Optional[_Waiting]) -> None:
        self._waiting.append(waiting)
        # One wake-up is for all that wait. A loop that is not there yet begins with what waits.
        if not self._is_woken and self._loop is not None:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._begin)

    async def part_sent(self) -> bool:
        """As `Watch.part_sent`, for the coroutine that calls it."""
        import asyncio

        task = asyncio.current_task()
        watch = None if task is None else self._tasks.get(task)
        return watch is not None and await watch.part_sent()

    def is_current(self) -> bool:
        """Returns whether this thread runs the loop."""
        return self._ident == threading.get_ident()

    def _run(self) -> None:
        import asyncio

        from ._notices import Notices

        self._ident = threading.get_ident()
        # Made on the thread that runs it: the selectors of gevent belong to a thread.
        loop = asyncio.new_event_loop()
        self._notices = Notices(loop)
        self._loop = loop
        loop.call_soon(self._begin)
        run_loop(loop, loop.run_forever)

    def _begin(self) -> None:
        assert self._loop is not None and self._notices is not None
        # First, so that what is added from now on wakes the loop again.
        self._is_woken = False
        while self._waiting:
            waiting = self._waiting.popleft()
            if waiting is None:
                self._loop.stop()
                continue
            task = waiting.context.run(self._loop.create_task, waiting.coroutine)
            origin = waiting.origin
            self._tasks[task] = None if origin is None else self._notices.watch(origin, task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        watch = self._tasks.pop(task)
        if watch is not None and self._notices is not None:
            self._notices.forget(watch)

    def stop(self) -> None:
        if self._thread is not None:
            self._put(None)
            self._thread.leave()
