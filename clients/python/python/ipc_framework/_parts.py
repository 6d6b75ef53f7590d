"""The parts of an answer, from the generator that yields them to the request that it answers.

A generator is closed when no more parts are wanted, so its `finally` runs then.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, AsyncGenerator, Generator, Union

if TYPE_CHECKING:
    from . import _native

    Target = Union[_native.Job, _native.Origin]


def send_parts(parts: Generator[Any, Any, Any], to: Target) -> None:
    """Answers with the parts of a generator."""
    with contextlib.closing(parts):
        for part in parts:
            if not to.add_part(part):
                return
    to.end_parts()


async def send_parts_in_turns(parts: Generator[Any, Any, Any], to: Target) -> None:
    """As `send_parts`, where several generators share an event loop: each makes one part in its turn."""
    from asyncio import sleep

    with contextlib.closing(parts):
        for part in parts:
            if not to.add_part(part):
                return
            await sleep(0)
    to.end_parts()


async def send_async_parts(parts: AsyncGenerator[Any, Any], to: Target) -> None:
    """As `send_parts`, for an asynchronous generator."""
    try:
        async for part in parts:
            if not to.add_part(part):
                return
    finally:
        await parts.aclose()
    to.end_parts()
