"""The threads of a server: of its loop, its workers, and its coroutines."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable, Coroutine, Optional


class Thread(threading.Thread):
    """A thread that can be waited for in the main one: where Ctrl-C interrupts ``join``, older
    Pythons take the thread for ended, and abort when it ends."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.ended = threading.Event()
        self._work = work

    def run(self) -> None:
        try:
            self._work()
        finally:
            self.ended.set()


class Coroutines:
    """The asyncio loop of ``async def`` handlers, which begins with the first of them."""

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
            thread.ended.wait()
