"""What an event loop learns of the requests that its tasks answer: that nobody waits any more, and that there is credit
for more parts."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Dict, Optional, Union

from . import _native

#: Seconds between two looks whether a full queue has room for a part.
ROOM_PAUSE = 0.005

Job = Union[_native.Job, _native.Origin]


class Watch:
    """A request and the task that answers it."""

    __slots__ = ("number", "_job", "_task", "_credit")

    def __init__(self, number: int, job: Job, task: asyncio.Task[Any]) -> None:
        self.number = number
        self._job = job
        self._task = task
        self._credit: Optional[asyncio.Future[None]] = None

    def notice(self) -> None:
        if self._job.is_cancelled:
            self._task.cancel()
        elif self._credit is not None and not self._credit.done():
            self._credit.set_result(None)

    async def part_sent(self) -> bool:
        """Waits until the part for which there was no credit is sent. Returns False if no more parts are wanted."""
        while True:
            is_wanted = self._job.flush_part()
            if is_wanted is not None:
                return is_wanted
            if not self._job.has_room:
                # The server does not read, and does not say when it does.
                await asyncio.sleep(ROOM_PAUSE)
                continue
            self._credit = asyncio.get_running_loop().create_future()
            await self._credit


class Notices:
    """The watches of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._native = _native.Notices()
        self._numbers = itertools.count()
        self._watches: Dict[int, Watch] = {}
        loop.add_reader(self._native.fileno(), self._take)

    def watch(self, job: Job, task: asyncio.Task[Any]) -> Watch:
        """Cancels the task when nobody waits for its answer any more, until `forget` is called at its end."""
        number = next(self._numbers)
        watch = self._watches[number] = Watch(number, job, task)
        job.watch(self._native, number)
        return watch

    def forget(self, watch: Watch) -> None:
        self._watches.pop(watch.number, None)

    def _take(self) -> None:
        for number in self._native.take():
            watch = self._watches.get(number)
            if watch is not None:
                watch.notice()

    def close(self) -> None:
        self._loop.remove_reader(self._native.fileno())
