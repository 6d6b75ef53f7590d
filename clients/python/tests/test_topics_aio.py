"""Patterns, last values and histories, for asyncio."""

import asyncio

import pytest
from lines import Line
from peers import PublishedServer, STEP_SECONDS_MAX, free_port

from ipc_framework import FrameworkServer, Position, aio
from ipc_framework.exceptions import ChannelError, IPCError, TimeoutError

HISTORIES = [{"app": "shop", "channel": "orders"}, {"app": "shop", "channel": "large", "bytes": 64 << 20}]


@pytest.fixture(scope="module")
def server():
    started = FrameworkServer(port=0, histories=HISTORIES)
    started.start()
    yield started
    started.stop()


def run(body):
    asyncio.run(asyncio.wait_for(body, 2 * STEP_SECONDS_MAX))


def connect(port, **options):
    return aio.connect("shop", "127.0.0.1", port, **{"reconnect": (0.01, 0.05), **options})


async def take(subscription, count):
    return [(await subscription.__anext__()) for _ in range(count)]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def payloads(messages):
    return [message.payload for message in messages]


def test_patterns(server):
    async def main():
        async with connect(server.port) as client:
            below, one = client.subscribe_pattern("prices.>"), client.subscribe_pattern("prices.*")
            again, channel = client.subscribe_pattern("prices.>"), client.subscribe("prices.tea")
            for name in ("prices.tea", "prices.tea.green", "stock.tea"):
                await client.publish(name, name)
            for subscription in (below, again):
                assert payloads(await take(subscription, 2)) == ["prices.tea", "prices.tea.green"]
            assert payloads(await take(one, 1)) == payloads(await take(channel, 1)) == ["prices.tea"]
            assert below.channel_id == "prices.>"
            below.close()
            with pytest.raises(StopAsyncIteration):
                await below.__anext__()
            one.close()
            await client.publish("prices.tea", "on")
            assert payloads(await take(again, 1)) == payloads(await take(channel, 1)) == ["on"]
            del again, subscription
            # A later subscription gets nothing that belongs to the one before.
            async with client.subscribe_pattern("prices.>") as later:
                await client.publish("prices.tea", "later")
                assert payloads(await take(later, 1)) == ["later"]
            assert not client._patterns and not client._matching
            for pattern in ("a.>.b", ".".join("a" * 33), ""):
                with pytest.raises(ChannelError):
                    client.subscribe_pattern(pattern)
            with pytest.raises(ValueError):
                client.subscribe_pattern("a.*", last=0)
            assert not client._patterns and not client._matching
            left = client.subscribe_pattern("left.*")
        with pytest.raises(StopAsyncIteration):
            await left.__anext__()

    run(main())


def test_what_is_kept(server):
    async def main():
        async with connect(server.port) as client:
            events = []
            client.on_event(events.append)
            await client.publish("price", 1, retain=True)
            async with client.subscribe("price", last=1) as late:
                (value,) = await take(late, 1)
                assert value.payload == 1 and value.retained and value.position is None
                # Another reader joins, and what the server keeps is sent once.
                other = client.subscribe("price")
                with pytest.raises(ChannelError) as refused:
                    client.subscribe("price", last=1)
                assert refused.value.code == "already_subscribed"
                assert await client.publish("price", 2) is None
                assert payloads(await take(other, 1)) == payloads(await take(late, 1)) == [2]
                other.close()

            places = await asyncio.gather(*(client.publish("orders", n, acknowledged=True) for n in range(10)))
            assert all(isinstance(place, Position) for place in places)
            assert [place.offset for place in places] == list(range(places[0].offset, places[0].offset + 10))
            assert await client.publish("nowhere", 1, acknowledged=True, timeout=STEP_SECONDS_MAX) is None
            async with client.subscribe("orders", since=places[4]) as rest:
                messages = await take(rest, 5)
                assert payloads(messages) == [5, 6, 7, 8, 9] and messages[-1].position == places[-1]
            assert [(event.name, event.channel_id) for event in events] == [("resumed", "orders")]
            with pytest.raises(TypeError):
                client.subscribe("orders", since="epoch:1")
            with pytest.raises(ValueError):
                client.subscribe("orders", last=0)
            assert not client._subscriptions

    run(main())


def test_a_lost_connection(server):
    async def main():
        with Line(server.port) as line:
            async with connect(server.port) as publisher, connect(line.port) as reader:
                events = []
                reader.on_event(events.append)
                orders, plain = reader.subscribe("orders"), reader.subscribe_pattern("plain.*")
                await reader.flush()
                await publisher.publish("orders", 0)
                begin = await take(orders, 1)
                for round in range(3):
                    await asyncio.to_thread(line.cut)
                    await until(lambda: not reader.connected)
                    for number in range(10):
                        await publisher.publish("orders", number)
                    await publisher.flush()
                    await asyncio.to_thread(line.mend)
                    messages = await take(orders, 10)
                    assert payloads(messages) == list(range(10))
                    assert messages[-1].offset == begin[0].offset + 10 * round + 10
                    # The pattern is restored behind the channel, whose messages do not wait for that.
                    await until(lambda: any(event.channel_id == "plain.*" for event in events))
                    names = {event.channel_id: event.name for event in events if event.channel_id}
                    assert names == {"orders": "resumed", "plain.*": "gap"}
                    del events[:]
                await publisher.publish("plain.a", "live")
                assert payloads(await take(plain, 1)) == ["live"]

    run(main())


def test_a_slow_reader_that_conflates(server):
    async def main():
        async with connect(server.port) as publisher, connect(server.port) as client:
            orders = client.subscribe("orders", conflate=True)
            rates = client.subscribe_pattern("rates.*", conflate=True)
            bounded = client.subscribe_pattern("rates.>", messages_max=5)
            await client.flush()
            for number in range(1_000):
                await publisher.publish("orders", number)
                await publisher.publish(f"rates.{number % 3}", number)
            await publisher.flush()
            await client.flush()
            (message,) = await take(orders, 1)
            assert message.payload == 999
            assert sorted(payloads(await take(rates, 3))) == [997, 998, 999]
            assert payloads(await take(bounded, 5)) == [0, 1, 2, 3, 4] and bounded.missed == 995
            assert orders.missed == rates.missed == 0
            await publisher.publish("orders", "on")
            assert payloads(await take(orders, 1)) == ["on"]

    run(main())


def test_the_bounds_of_a_reader_that_conflates(server):
    async def main():
        async with connect(server.port) as client:
            few = client.subscribe_pattern("few.*", conflate=True, messages_max=2, bytes_max=10_000)
            for number, size in ((0, 10), (1, 10), (2, 10), (0, 4_000), (1, 9_000), (1, 20)):
                await client.publish(f"few.{number}", "x" * size)
                await client.flush()
            # The third channel has no room, and neither has what is too large.
            assert [len(message.payload) for message in await take(few, 2)] == [4_000, 20] and few.missed == 2

    run(main())


def test_an_end_in_the_middle_of_a_recovery(server):
    async def main():
        async with connect(server.port) as client:
            for number in range(1_000):
                await client.publish("large", "x" * 10_000)
            await client.flush()
            async with connect(server.port) as reader:
                large = reader.subscribe("large", last=1_000)
                await take(large, 1)
            count = 1
            async for _ in large:
                count += 1
            assert count <= 1_000
            async with client.subscribe("large", last=1_000) as large:
                await take(large, 1)
            await client.ping()
            task = asyncio.create_task(client.publish("orders", 1, acknowledged=True))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client._requests
            await until(lambda: client.info()["pending_requests"] == 0)

    run(main())


def test_no_answer_in_time_is_an_error(server):
    async def main():
        with Line(server.port) as line:
            async with connect(line.port, reconnect=(5.0, 5.0)) as client:
                await asyncio.to_thread(line.cut)
                await until(lambda: not client.connected)
                with pytest.raises(TimeoutError):
                    await client.publish("orders", 1, acknowledged=True, timeout=0.1)

    run(main())


def test_a_server_that_knows_none_of_it(caplog):
    server = PublishedServer()

    async def main():
        async with connect(server.port) as client:
            for refused in (
                lambda: client.subscribe_pattern("a.*"),
                lambda: client.subscribe("a", last=1),
                lambda: client.subscribe("a", since=("epoch", 1)),
                lambda: client.subscribe("a", conflate=True),
            ):
                with pytest.raises(IPCError) as error:
                    refused()
                assert error.value.code == "unsupported"
            for options in ({"retain": True}, {"acknowledged": True}):
                with pytest.raises(IPCError) as error:
                    await client.publish("a", 1, **options)
                assert error.value.code == "unsupported"
            assert not client._subscriptions and not client._patterns and not client._requests
            both = client.subscribe("a.*"), client.subscribe("b.>")
            await client.publish("a.*", 1)
            assert payloads(await take(both[0], 1)) == [1]
            assert caplog.text.count("subscribe_pattern") == 1, "it warns once"

    run(main())
    server.stop()


def test_a_server_that_begins_anew(server):
    async def main():
        port = free_port()
        first = FrameworkServer(port=port, histories=HISTORIES)
        first.start()
        async with connect(port) as client:
            events = []
            client.on_event(events.append)
            orders = client.subscribe("orders")
            place = await client.publish("orders", 1, acknowledged=True)
            await take(orders, 1)
            await asyncio.to_thread(first.stop)
            second = FrameworkServer(port=port, histories=HISTORIES)
            second.start()
            await until(lambda: any(event.name == "gap" for event in events))
            (gap,) = [event for event in events if event.name == "gap"]
            assert (gap.seen, gap.newest.offset, gap.missed) == (place, 0, None) and gap.newest.epoch != place.epoch
            await client.publish("orders", 2)
            assert payloads(await take(orders, 1)) == [2]
        second.stop()

    run(main())
