"""The parts of an answer, from the generator that yields them to the request that it answers.

A generator is closed when no more parts are wanted, so its `finally` runs then. One whose part waits for credit is not
run on: there is never more than this one part beyond what the reader has asked for.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, AsyncGenerator, Awaitable, Callable, Generator, Union

from . import _hub

if TYPE_CHECKING:
    from . import _native

    Target = Union[_native.Job, _native.Origin]
    #: Waits until the last part is sent, and returns whether more are wanted.
    Sent = Callable[[], Awaitable[bool]]

#: Parts after which other tasks get their turn, if the generator itself does not wait for anything.
TURN_PARTS = 16


def send_parts(parts: Generator[Any, Any, Any], to: Target) -> None:
    """Answers with the parts of a generator, and waits for credit."""
    with contextlib.closing(parts):
        for part in parts:
            is_wanted = to.add_part(part)
            if is_wanted is None:
                is_wanted = _hub.call(to.wait_part)
            if not is_wanted:
                return
    to.end_parts()


async def send_parts_in_turns(parts: Generator[Any, Any, Any], to: Target, sent: Sent) -> None:
    """As `send_parts`, where several generators share an event loop: each makes one part in its turn."""
    from asyncio import sleep

    with contextlib.closing(parts):
        for part in parts:
            is_wanted = to.add_part(part)
            if is_wanted is None:
                is_wanted = await sent()
            if not is_wanted:
                return
            await sleep(0)
    to.end_parts()


async def send_async_parts(parts: AsyncGenerator[Any, Any], to: Target, sent: Sent) -> None:
    """As `send_parts`, for an asynchronous generator."""
    from asyncio import sleep

    count = 0
    try:
        async for part in parts:
            is_wanted = to.add_part(part)
            if is_wanted is None:
                is_wanted = await sent()
            if not is_wanted:
                return
            count += 1
            if count % TURN_PARTS == 0:
                await sleep(0)
    finally:
        await parts.aclose()
    to.end_parts()
