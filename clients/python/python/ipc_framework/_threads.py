"""The threads of a server: of its loop, its workers, and its coroutines."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from typing import Any, Callable, Coroutine, Optional

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


class Thread(threading.Thread):
    """A thread for which the main thread can wait. After a Ctrl-C in ``join``, older Pythons regard the
    thread as ended, and abort when it ends."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self._work: Optional[Callable[[], None]] = work

    def run(self) -> None:
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
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))
            self.ended.wait(LINGER)


class Coroutines:
    """The asyncio loop of ``async def`` handlers, which starts with the first of them."""

    def __init__(self) -> None:
        self.thread: Optional[Thread] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._lock = threading.Lock()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self.thread = Thread("ipc-asyncio", lambda: self._run(loop))
                self.thread.start()
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def stop(self) -> None:
        loop, thread = self._loop, self.thread
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.leave()
