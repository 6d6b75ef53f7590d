"""The changes of a connection and of its subscriptions that a program is told of."""

from __future__ import annotations

import dataclasses
import logging
from typing import Optional

from .core import Position
from .exceptions import IPCError


@dataclasses.dataclass(frozen=True)
class Event:
    """A change of a connection or of a subscription.

    `name` is one of `connected` (again, with everything restored), `leaving` (the server is about to end),
    `disconnected`, `unreachable` (an attempt to reconnect failed), `refused` and `not_restored` (a subscription or a
    served channel), `closed` (for good).

    `resumed` and `gap` are about the subscription to `channel_id`, after a reconnect or a `subscribe` with `since`, and
    come before its next message: after `resumed` all publications that were made meanwhile follow, and none is missing;
    after `gap` some may be. What is known of them is in `seen`, `newest` and `missed`. Without a history at the server
    there is a gap after every reconnect, and so for each pattern. `looks_like_pattern` comes once for each client:
    `subscribe` was called with a name that has a `*` or `>` of its own, which does not make it a pattern.
    """

    name: str
    error: Optional[IPCError] = None
    #: Number of requests that failed with the connection.
    unanswered: int = 0
    #: Upper bound of the publications and notifications that are lost.
    unconfirmed: int = 0
    #: Number of messages that wait for the next connection, or, for `closed`, that were never sent.
    waiting: int = 0
    #: The channel, or the pattern.
    channel_id: Optional[str] = None
    #: The place in the channel's history up to which publications had come.
    seen: Optional[Position] = None
    #: The place up to which publications had been made when the server subscribed the client again.
    newest: Optional[Position] = None
    #: Number of publications between the two. The newest of them still come where `last` asks for them.
    missed: Optional[int] = None
    #: The server of the connection, for `connected` and `disconnected`: `host:port`, or the path of its Unix socket.
    address: Optional[str] = None

    @property
    def level(self) -> int:
        """The level at which it is logged."""
        if self.name in ("leaving", "unreachable", "resumed"):
            return logging.INFO
        # Without a history nobody knows whether there were any, and the loss of the connection is logged already.
        return logging.INFO if self.name == "gap" and self.newest is None else logging.WARNING

    def __str__(self) -> str:
        if self.name == "resumed":
            return f"{self.channel_id!r} goes on, and no publication is missing"
        if self.name == "looks_like_pattern":
            return (
                f"subscribe({self.channel_id!r}) gets what is published on the channel of exactly this name; "
                "subscribe_pattern subscribes to all channels that match"
            )
        if self.name == "gap":
            what = "publications may be missing" if self.missed is None else f"{self.missed} publications are missing"
            return f"{self.channel_id!r} goes on, and {what} (seen {self.seen}, newest {self.newest})"
        where = "" if self.channel_id is None else f" {self.channel_id!r}"
        return f"{self.name}{where}" + (f": {self.error}" if self.error else "")
