"""Answers that come in parts, for threads and greenlets."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Iterator, Optional, Tuple

from . import _hub, _native
from .core import Message

if TYPE_CHECKING:
    import weakref

#: Message id, application, channel, payload, and seconds until the requester gives up.
Asked = Tuple[str, str, str, Any, float]

_numbers = itertools.count(1)


class Stream(Iterator[Message]):
    """The parts of an answer, made by `FrameworkClient.stream`. To be used by one thread at a time."""

    def __init__(
        self, native: _native.Client, green: Optional[weakref.WeakValueDictionary[int, Stream]], asked: Asked
    ) -> None:
        self._arrived: Optional[threading.Event] = None
        number = None
        if green is not None:
            self._arrived = threading.Event()
            number = next(_numbers)
            green[number] = self
        self._native: Optional[_native.Stream] = native.open_stream(*asked, number)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Message:
        native = self._native
        if native is None:
            raise StopIteration
        try:
            part = native.take() if self._arrived is None else self._take_green(native, self._arrived)
        except BaseException:
            # The stream has ended by an error, or the thread does not wait any more, as after Ctrl-C.
            self.close()
            raise
        if part is None:
            self._native = None
            raise StopIteration
        return part

    def _take_green(self, native: _native.Stream, arrived: threading.Event) -> Optional[Message]:
        """Lets other greenlets go on until a part is there."""
        while True:
            arrived.clear()
            part = native.take_now()
            if part is not False:
                return part
            arrived.wait()

    def wake(self) -> None:
        """A part may have arrived."""
        if self._arrived is not None:
            self._arrived.set()

    def close(self) -> None:
        """Cancels the request, unless the stream has ended. Iterating then ends."""
        native, self._native = self._native, None
        if native is not None:
            native.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
