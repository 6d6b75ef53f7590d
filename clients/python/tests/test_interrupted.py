"""Subscriptions that are cut off while the server still sends what it has kept, to a reader that is so slow that most
of it has not come by then: by a client that takes over, and by a server that drains and begins anew."""

import asyncio

import pytest
from lines import Line
from peers import STEP_SECONDS_MAX, eventually, free_port

from ipc_framework import FrameworkClient, FrameworkServer, aio

#: More than the kernels of both sides and the server's queue hold.
COUNT = 1_200
TEXT = "x" * 20_000
HELD_AFTER = 200_000
HISTORIES = [{"app": "shop", "channel": "kept", "messages": COUNT, "bytes": 64 << 20}]
OPTIONS = {"reconnect": (0.01, 0.05), "heartbeat": None}


@pytest.fixture
def port():
    """The port of a server that has kept all of it, and that a test may end."""
    chosen = free_port()
    server = begin(chosen)
    fill(chosen, COUNT)
    begun = {chosen: server}
    yield begun
    for server in begun.values():
        server.stop()


def begin(port):
    # No reader of these tests is closed for being slow, however long the machine takes.
    limits = {"slow_consumer_grace": 2 * STEP_SECONDS_MAX}
    server = FrameworkServer(port=port, histories=HISTORIES, limits=limits)
    server.start()
    return server


def client_of(port, **options):
    client = FrameworkClient("shop", "127.0.0.1", port, **{**OPTIONS, **options})
    assert client.connect(), client.last_error
    return client


def fill(port, count):
    with client_of(port) as publisher:
        for _ in range(count):
            publisher.publish("kept", TEXT)
        return publisher.publish("kept", "last", acknowledged=True, timeout=STEP_SECONDS_MAX)


class Reading:
    """What a client is told, in the order in which it is told; by threads, or by an event loop of its own."""

    def __init__(self, kind, port, **wish):
        self.told = []
        self.kind = kind
        options = {**OPTIONS, "connection_id": "the reader"}
        if kind == "threads":
            self.client = client_of(port, **options)
            self.client.on_event(self.told.append)
            self.client.subscribe("kept", self.told.append, **wish)
        else:
            self.loop = asyncio.new_event_loop()
            self.client = self.run(self.open(port, options))
            self.client.on_event(self.told.append)
            self.task = self.loop.create_task(self.read(self.client.subscribe("kept", **wish)))

    async def open(self, port, options):
        return await aio.connect("shop", "127.0.0.1", port, **options)

    async def read(self, subscription):
        async for message in subscription:
            self.told.append(message)

    def run(self, body):
        return self.loop.run_until_complete(asyncio.wait_for(body, STEP_SECONDS_MAX))

    def until(self, what, condition):
        def look():
            if self.kind == "tasks":
                self.loop.run_until_complete(asyncio.sleep(0))
            return condition()

        eventually(what, look)

    def close(self):
        if self.kind == "threads":
            return self.client.close()
        closed = self.run(self.client.close())
        self.task.cancel()
        self.loop.run_until_complete(asyncio.gather(self.task, return_exceptions=True))
        self.loop.close()
        return closed

    def events(self, *names):
        return [one for one in self.told if hasattr(one, "name") and one.name in names]

    def offsets(self, epoch):
        return [one.offset for one in self.told if hasattr(one, "payload") and one.epoch == epoch]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_client_that_takes_over_in_the_middle_gets_all_and_the_other_one_is_told(port, kind):
    (number,) = port
    with Line(number, HELD_AFTER) as line:
        with client_of(number) as publisher:
            # The newest of COUNT are kept.
            newest = publisher.publish("kept", "newest", acknowledged=True)
            since = (newest.epoch, newest.offset - COUNT)
            older = Reading(kind, line.port, since=since)
            older.until("it has begun", lambda: older.offsets(newest.epoch))
            newer = Reading(kind, number, since=since)
            newer.until("all came", lambda: newest.offset in newer.offsets(newest.epoch))
            live = publisher.publish("kept", "live", acknowledged=True)
            newer.until("what is live", lambda: live.offset in newer.offsets(newest.epoch))
        assert newer.offsets(newest.epoch) == list(range(since[1] + 1, live.offset + 1))
        assert [event.name for event in newer.events("resumed", "gap", "disconnected")] == ["resumed"]
        # It was told at once, behind what it was still owed. The server has closed the line since, so that a word of
        # the client's own would have the kernel forget all that is on its way to it.
        line.release()
        older.until("its end", lambda: older.events("closed"))
        (closed,) = older.events("closed")
        assert closed.error.code == "taken_over"
        came = older.offsets(newest.epoch)
        assert came == list(range(since[1] + 1, since[1] + 1 + len(came))) and came
        assert [event.name for event in older.events("resumed", "gap", "connected")] == ["resumed"]
        older.close()
        assert newer.client.connected
        newer.close()


@pytest.mark.parametrize("wish", ["since", "last"])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_drain_in_the_middle_leaves_a_gap_behind_the_last_one_that_came(port, kind, wish):
    (number,) = port
    with client_of(number) as publisher:
        newest = publisher.publish("kept", "newest", acknowledged=True)
    before = newest.offset - COUNT
    wished = {"since": (newest.epoch, before)} if wish == "since" else {"last": COUNT}
    with Line(number, HELD_AFTER) as line:
        reader = Reading(kind, line.port, **wished)
        reader.until("it has begun", lambda: reader.offsets(newest.epoch))
        # It waits for the reader, and gives up.
        port.pop(number).stop()
        port[number] = begin(number)
        anew = fill(number, 2)
        line.release()
        reader.until("a gap", lambda: reader.events("gap"))
        with client_of(number) as publisher:
            live = publisher.publish("kept", "live", acknowledged=True)
        reader.until("what is live", lambda: live.offset in reader.offsets(anew.epoch))
        (gap,) = reader.events("gap")
        came = reader.offsets(newest.epoch)
        assert came == list(range(before + 1, before + 1 + len(came)))
        assert 0 < len(came) < COUNT, "it was cut off in the middle"
        assert (gap.seen, gap.newest, gap.missed) == ((newest.epoch, came[-1]), anew, None)
        assert reader.offsets(anew.epoch) == ([1, 2, 3, 4] if wish == "last" else [4])
        order = [one for one in reader.told if one is gap or hasattr(one, "payload")]
        # An iterator may be told before it has had what came before.
        assert order.index(gap) == len(came) or (kind == "tasks" and order.index(gap) < len(came))
        reader.close()
