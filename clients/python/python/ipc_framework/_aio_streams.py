"""Answers that come in parts, for asyncio."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, AsyncIterator, Optional

from . import _native
from ._streams import Asked
from .core import Message

if TYPE_CHECKING:
    from .aio import Client

_numbers = itertools.count(1)


class Stream(AsyncIterator[Message]):
    """The parts of an answer, made by `Client.stream`. To be read by one task at a time."""

    def __init__(self, client: Client, asked: Asked) -> None:
        self._client = client
        self._waiting: Optional[asyncio.Future[None]] = None
        self._asked: Optional[Asked] = asked
        self._native: Optional[_native.Stream] = None
        if not client._native.is_full:
            self._start(asked)

    def _start(self, asked: Asked) -> _native.Stream:
        self._asked = None
        number = next(_numbers)
        self._client._streams[number] = self
        native = self._native = self._client._native.open_stream(*asked, number)
        return native

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Message:
        native = self._native
        try:
            if native is None:
                native = await self._start_late()
            while True:
                part = native.take_now()
                if part is None:
                    break
                if part is not False:
                    return part
                self._waiting = self._client._loop.create_future()
                await self._waiting
        except BaseException:
            # The stream has ended by an error, or the task was cancelled.
            self.close()
            raise
        self._native = None
        raise StopAsyncIteration

    async def _start_late(self) -> _native.Stream:
        """Starts what found the queue full."""
        asked = self._asked
        if asked is None:
            raise StopAsyncIteration
        await self._client._room(self._client.request_timeout)
        return self._start(asked)

    def _wake(self) -> None:
        """A part may have arrived."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def close(self) -> None:
        """Cancels the request, unless the stream has ended. Iterating then ends."""
        native, self._native = self._native, None
        self._asked = None
        if native is not None:
            native.cancel()

    async def aclose(self) -> None:
        """As `close`, as asynchronous generators have it."""
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
