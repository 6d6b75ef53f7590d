"""Served channels: requests on their way to the functions that answer them."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Optional

from . import _native
from .core import Message

logger = logging.getLogger("ipc_framework.client")

#: The error of a request on a channel that was served before.
NOT_SERVED = "this client no longer serves the channel; ask again"


def failure_text(error: BaseException) -> str:
    """Returns the text that a requester gets for an exception."""
    return f"{type(error).__name__}: {error}"


def is_coroutine_function(handler: Callable[[Message], Any]) -> bool:
    """Returns whether a call of it must be awaited, as for an object with an `async def __call__`."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))


class Services:
    """The channels that a client serves."""

    def __init__(self) -> None:
        self._services: Dict[str, _Service] = {}
        self._threads = threading.local()

    def is_current(self) -> bool:
        """Returns whether this thread is answering a request."""
        return getattr(self._threads, "serves", False)

    def add(self, channel_id: str, handler: Callable[[Message], Any], concurrency: int) -> None:
        older = self._services.get(channel_id)
        self._services[channel_id] = _Service(channel_id, handler, concurrency, self._threads)
        if older is not None:
            older.close()

    def remove(self, channel_id: str) -> None:
        service = self._services.pop(channel_id, None)
        if service is not None:
            service.close()

    def close(self) -> None:
        for channel_id in list(self._services):
            self.remove(channel_id)

    def submit(self, message: Message, job: _native.Job) -> None:
        service = self._services.get(message.channel_id)
        if service is None:
            job.fail(NOT_SERVED)
        else:
            service.submit(message, job)


class _Service:
    def __init__(
        self, channel_id: str, handler: Callable[[Message], Any], concurrency: int, threads: threading.local
    ) -> None:
        self.handler = handler
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        self.threads: Optional[ThreadPoolExecutor] = None
        if is_coroutine_function(handler):
            self.loop = asyncio.new_event_loop()
            run = threading.Thread(
                target=self._run, args=(self.loop, threads), name=f"ipc-serve-{channel_id}", daemon=True
            )
            run.start()
        else:
            self.threads = ThreadPoolExecutor(
                concurrency, f"ipc-serve-{channel_id}", initializer=threads.__setattr__, initargs=("serves", True)
            )

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop, threads: threading.local) -> None:
        threads.serves = True
        try:
            loop.run_forever()
        finally:
            loop.close()

    def submit(self, message: Message, job: _native.Job) -> None:
        try:
            if self.loop is not None:
                asyncio.run_coroutine_threadsafe(self._await(message, job), self.loop)
            elif self.threads is not None:
                self.threads.submit(self._call, message, job)
        except RuntimeError as error:
            # The interpreter is about to end, or the service has ended.
            job.fail(failure_text(error))

    def _call(self, message: Message, job: _native.Job) -> None:
        try:
            result = self.handler(message)
            if inspect.iscoroutine(result):
                # A plain function, such as a lambda, may return a coroutine.
                result = asyncio.run(result)
            job.answer(result)
        except BaseException as error:
            self._failed(message, job, error)

    async def _await(self, message: Message, job: _native.Job) -> None:
        try:
            job.answer(await self.handler(message))
        except BaseException as error:
            self._failed(message, job, error)

    @staticmethod
    def _failed(message: Message, job: _native.Job, error: BaseException) -> None:
        logger.error("the handler that serves %r failed", message.channel_id, exc_info=error)
        job.fail(failure_text(error))

    def close(self) -> None:
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
        if self.threads is not None:
            self.threads.shutdown(wait=False)
