"""Subscriptions as asynchronous iterators."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import AsyncIterator, Callable, Deque, Tuple
from weakref import finalize

from .core import Message


class Queue:
    """The messages that wait for one reader."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages: Deque[Tuple[Message, int]] = deque()
        self._messages_max = messages_max
        self._bytes = 0
        self._bytes_max = bytes_max
        self.missed = 0
        self.arrived = asyncio.Event()
        self.has_ended = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message, payload_bytes: int) -> None:
        # A message that is larger than the bound can only be read alone.
        has_room = self._bytes + payload_bytes <= self._bytes_max or not self._messages
        if has_room and len(self._messages) < self._messages_max:
            self._messages.append((message, payload_bytes))
            self._bytes += payload_bytes
            self.arrived.set()
        else:
            self.missed += 1

    def pop(self) -> Message:
        message, payload_bytes = self._messages.popleft()
        self._bytes -= payload_bytes
        return message

    def end(self) -> None:
        self.has_ended = True
        self.arrived.set()


class NewestQueue(Queue):
    """The newest message of each channel, as long as it waits."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        super().__init__(messages_max, bytes_max)
        self._newest: OrderedDict[str, Tuple[Message, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._newest)

    def put(self, message: Message, payload_bytes: int) -> None:
        _, older_bytes = self._newest.get(message.channel_id, (None, 0))
        others = len(self._newest) - (message.channel_id in self._newest)
        others_bytes = self._bytes - older_bytes
        if others < self._messages_max and (others_bytes + payload_bytes <= self._bytes_max or not others):
            # In the place of the older one.
            self._newest[message.channel_id] = (message, payload_bytes)
            self._bytes = others_bytes + payload_bytes
            self.arrived.set()
        else:
            self.missed += 1

    def pop(self) -> Message:
        _, (message, payload_bytes) = self._newest.popitem(last=False)
        self._bytes -= payload_bytes
        return message


class Subscription(AsyncIterator[Message]):
    """The messages of a channel or of a pattern, made by `Client.subscribe` and `subscribe_pattern`. It ends with the
    client."""

    def __init__(self, channel_id: str, queue: Queue, unsubscribe: Callable[[str, Queue], None]) -> None:
        #: The channel, or the pattern.
        self.channel_id = channel_id
        self._queue = queue
        self._close = finalize(self, unsubscribe, channel_id, queue)
        self._close.atexit = False  # type: ignore[misc, unused-ignore]  # some stubs have no such slot

    @property
    def missed(self) -> int:
        """The number of messages that were dropped because too many waited."""
        return self._queue.missed

    def close(self) -> None:
        """Unsubscribes, unless the client has another subscription to the channel or pattern."""
        self._close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        queue = self._queue
        while not queue:
            if queue.has_ended:
                raise StopAsyncIteration
            queue.arrived.clear()
            await queue.arrived.wait()
        return queue.pop()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
