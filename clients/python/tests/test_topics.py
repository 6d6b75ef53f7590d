"""Patterns, last values and histories, for threads."""

import copy
import logging
import pickle
import subprocess
import sys
import threading
import time

import pytest
from lines import Line
from peers import PublishedServer, STEP_SECONDS_MAX, eventually, free_port

from ipc_framework import FrameworkClient, FrameworkServer, Position
from ipc_framework.exceptions import ChannelError, ConnectionError, IPCError, TimeoutError

HISTORIES = [
    {"app": "shop", "channel": "orders", "messages": 1_000},
    {"app": "shop", "channel": "short.*", "messages": 3},
    {"app": "shop", "channel": "large", "messages": 2_000, "bytes": 64 << 20},
]
QUICK = (0.01, 0.05)


@pytest.fixture(scope="module")
def server():
    started = FrameworkServer(port=0, histories=HISTORIES)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def client(server):
    with client_of(server.port) as connected:
        yield connected


def client_of(port, **options):
    client = FrameworkClient("shop", "127.0.0.1", port, **{"reconnect": QUICK, **options})
    assert client.connect(), client.last_error
    return client


def payloads(messages):
    return [message.payload for message in messages]


def test_a_pattern_gets_what_is_published_below_it(client):
    below, one, channel = [], [], []
    assert client.subscribe_pattern("prices.>", below.append)
    assert client.subscribe_pattern("prices.*", one.append)
    assert client.subscribe("prices.tea", channel.append)
    for name in ("prices.tea", "prices.tea.green", "prices", "stock.tea"):
        client.publish(name, name)
    client.flush()
    eventually("all came", lambda: len(below) == 2 and one and channel)
    assert [message.channel_id for message in below] == ["prices.tea", "prices.tea.green"]
    assert payloads(one) == payloads(channel) == ["prices.tea"]
    assert client.get_connection_info()["subscribed_patterns"] == ["prices.>", "prices.*"]

    # The same pattern again replaces its handler, and so does an unsubscribe of another nothing.
    newer = []
    assert client.subscribe_pattern("prices.>", newer.append)
    assert client.unsubscribe_pattern("prices.*") and client.unsubscribe_pattern("never.*")
    client.publish("prices.tea", "again")
    eventually("it came", lambda: payloads(newer) == ["again"])
    eventually("here, too", lambda: payloads(channel) == ["prices.tea", "again"])
    assert (len(below), len(one)) == (2, 1)


def test_a_message_that_a_pattern_matches_ends_a_wait(client):
    client.subscribe_pattern("waits.*", lambda message: None)
    later = threading.Timer(0.1, client.publish, ("waits.here", 1))
    later.start()
    assert client.wait_for_message("waits.here", STEP_SECONDS_MAX).payload == 1
    later.join()


def test_a_handler_that_fails_harms_no_other(client, caplog):
    seen = []

    def fail(message):
        raise ValueError("a bad price")

    client.subscribe_pattern("fails.*", fail)
    client.subscribe_pattern("fails.>", seen.append)
    client.publish("fails.a", 1)
    client.publish("fails.a", 2)
    eventually("both came", lambda: payloads(seen) == [1, 2])
    eventually("it is logged", lambda: caplog.text.count("ValueError: a bad price") == 2)


def test_the_last_value_comes_to_those_who_are_late(client):
    assert client.publish("price", 1, retain=True) and client.publish("price", 2, retain=True)
    client.publish("price", "is not kept")
    client.flush()
    late = []
    client.subscribe("price", late.append, last=1)
    eventually("it came", lambda: payloads(late) == [2])
    assert late[0].retained and late[0].position is late[0].epoch is late[0].offset is None
    client.publish("price", 3)
    eventually("and what is live", lambda: payloads(late) == [2, 3])
    assert not late[1].retained
    by_pattern = []
    client.subscribe_pattern("pric*", by_pattern.append)
    client.publish("price", None, retain=True)
    eventually("who is there learns that it is gone", lambda: payloads(late) == [2, 3, None])
    client.unsubscribe("price")
    client.subscribe("price", late.append, last=1)
    client.publish("price", 4)
    eventually("nothing was kept", lambda: payloads(late) == [2, 3, None, 4])
    assert by_pattern == [], "a letter is a letter"


def test_the_newest_of_each_channel_come_by_a_pattern(client):
    for name in ("kept.tea", "kept.salt"):
        client.publish(name, "old", retain=True)
        client.publish(name, name, retain=True)
    client.flush()
    seen = []
    client.subscribe_pattern("kept.*", seen.append, last=1)
    eventually("both came", lambda: sorted(payloads(seen)) == ["kept.salt", "kept.tea"])


def test_an_acknowledged_publication_has_its_place(client):
    first = client.publish("orders", "a", acknowledged=True)
    second = client.publish("orders", "b", acknowledged=True, retain=True, timeout=STEP_SECONDS_MAX)
    assert isinstance(first, Position) and second == Position(first.epoch, first.offset + 1)
    assert client.publish("nowhere", "c", acknowledged=True) is None
    with pytest.raises(IPCError) as refused:
        client.publish("orders", "x" * (17 << 20), acknowledged=True)
    assert refused.value.code == "too_large"
    seen = []
    # A handler may wait for one, too.
    client.subscribe("asks", lambda message: seen.append(client.publish("orders", 1, acknowledged=True)))
    client.publish("asks", 1)
    eventually("it is answered", lambda: seen == [Position(first.epoch, first.offset + 2)])


def test_messages_have_their_place_in_the_history(client):
    begin = client.publish("orders", 0, acknowledged=True)
    seen = []
    client.subscribe("orders", seen.append)
    client.flush()
    for number in (1, 2):
        client.publish("orders", number)
    eventually("they came", lambda: len(seen) == 2)
    message = seen[1]
    assert (message.epoch, message.offset) == message.position == (begin.epoch, begin.offset + 2)
    assert isinstance(message.position, Position)
    assert set(message.to_dict()) == set(vars(message)) and len(vars(message)) == 7
    for other in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message))):
        assert other == message and other.position == message.position and not other.retained


def test_a_subscription_begins_with_what_was(client):
    begin = client.publish("orders", "before", acknowledged=True)
    for number in range(5):
        client.publish("orders", number)
    client.flush()
    seen, events = [], []
    client.on_event(events.append)
    client.subscribe("orders", seen.append, last=2)
    eventually("two came", lambda: payloads(seen) == [3, 4])
    assert events == []

    client.unsubscribe("orders")
    del seen[:]
    client.on_event(seen.append)
    client.subscribe("orders", seen.append, since=begin)
    eventually("all came", lambda: len(seen) == 6)
    assert seen[0].name == "resumed" and seen[0].channel_id == "orders", "it comes first"
    assert payloads(seen[1:]) == [0, 1, 2, 3, 4]

    client.unsubscribe("orders")
    del seen[:]
    client.subscribe("orders", seen.append, since=("other", 1))
    client.publish("orders", "live")
    eventually("a gap, and then what is live", lambda: len(seen) == 2)
    gap, live = seen
    assert (gap.name, gap.channel_id, gap.seen, gap.missed) == ("gap", "orders", ("other", 1), None)
    assert gap.newest == (begin.epoch, begin.offset + 5) and live.payload == "live"


def test_what_is_lost_of_a_short_history_is_counted(client, caplog):
    caplog.set_level(logging.INFO)
    begin = client.publish("short.a", "begin", acknowledged=True)
    for number in range(10):
        client.publish("short.a", number)
    client.flush()
    seen, events = [], []
    client.on_event(events.append)
    client.subscribe("short.a", seen.append, since=tuple(begin), last=1)
    eventually("the newest came", lambda: payloads(seen) == [9])
    (gap,) = events
    assert (gap.name, gap.seen, gap.missed) == ("gap", begin, 10)
    eventually("it is logged", lambda: "10 publications are missing" in caplog.text)


def test_a_second_subscription_gets_nothing_of_what_was(client):
    first, second = [], []
    client.publish("orders", 1)
    client.flush()
    client.subscribe("orders", first.append, last=1)
    eventually("it came", lambda: payloads(first) == [1])
    for options in ({"last": 1}, {"since": ("e", 0)}, {"conflate": True}):
        with pytest.raises(ChannelError) as refused:
            client.subscribe("orders", second.append, **options)
        assert refused.value.code == "already_subscribed" and "unsubscribe" in str(refused.value)
    client.publish("orders", 2)
    eventually("the handler is the one before", lambda: payloads(first) == [1, 2])
    client.subscribe("orders", second.append)
    client.publish("orders", 3)
    eventually("a plain one replaces it", lambda: payloads(second) == [3])
    client.subscribe_pattern("a.*", print)
    with pytest.raises(ChannelError):
        client.subscribe_pattern("a.*", print, last=1)
    client.unsubscribe("orders")
    client.subscribe("orders", second.append, last=1)
    eventually("after an end it begins again", lambda: payloads(second) == [3, 3])


def test_what_is_no_pattern_and_no_place_is_refused(client):
    for pattern in ("a.>.b", "a>", ".".join("a" * 33), "a" * 257, ""):
        with pytest.raises(ChannelError) as refused:
            client.subscribe_pattern(pattern, print)
        assert refused.value.code in ("bad_pattern", "bad_id"), pattern
    for options, error in (
        ({"last": 0}, ValueError),
        ({"last": -1}, ValueError),
        ({"last": 1 << 32}, ValueError),
        ({"last": "1"}, TypeError),
        ({"since": 5}, TypeError),
        ({"since": ("epoch",)}, TypeError),
        ({"since": ("epoch", "1")}, TypeError),
        ({"since": ("epoch", -1)}, ValueError),
        ({"since": ("epoch", 1 << 64)}, ValueError),
    ):
        with pytest.raises(error):
            client.subscribe("refused", print, **options)
    assert "refused" not in client.message_handlers
    assert client.get_connection_info()["subscribed_patterns"] == [] and client.ping()


def test_a_lost_connection_loses_nothing_of_a_history(server, client):
    seen = []
    with Line(server.port) as line, client_of(line.port) as reader:
        reader.on_event(seen.append)
        reader.subscribe("orders", seen.append)
        reader.flush()
        client.publish("orders", 0)
        eventually("it came", lambda: len(seen) == 1)
        for round in range(3):
            line.cut()
            eventually("the loss is seen", lambda: not reader.connected)
            for number in range(10):
                client.publish("orders", 10 * round + number + 1)
            client.flush()
            line.mend()
            eventually("all came", lambda: len([one for one in seen if hasattr(one, "payload")]) == 10 * round + 11)
        messages = [one for one in seen if hasattr(one, "payload")]
        assert payloads(messages) == list(range(31))
        offsets = [message.offset for message in messages]
        assert offsets == list(range(offsets[0], offsets[0] + 31))
        names = [one.name for one in seen if not hasattr(one, "payload") and one.name != "unreachable"]
        assert names == ["disconnected", "connected", "resumed"] * 3
        client.publish("orders", "live")
        eventually("and it goes on", lambda: seen[-1].payload == "live")


def test_a_lost_connection_leaves_a_gap_where_nothing_is_kept(server, client):
    seen, events = [], []
    with Line(server.port) as line, client_of(line.port) as reader:
        reader.on_event(events.append)
        reader.subscribe("plain", seen.append)
        reader.subscribe_pattern("short.*", seen.append)
        reader.subscribe("short.b", lambda message: None)
        reader.flush()
        client.publish("short.b", "before")
        eventually("it came", lambda: payloads(seen) == ["before"])
        line.cut()
        eventually("the loss is seen", lambda: not reader.connected)
        for number in range(5):
            client.publish("short.b", number)
            client.publish("plain", number)
        client.flush()
        line.mend()
        gaps = lambda: {event.channel_id: event for event in events if event.name == "gap"}
        eventually("all are told", lambda: len(gaps()) == 3)
        assert gaps()["plain"].newest is None and gaps()["short.*"].missed is None
        assert gaps()["short.b"].missed == 5 and gaps()["short.b"].seen.offset + 5 == gaps()["short.b"].newest.offset
        client.publish("plain", "live")
        client.publish("short.b", "live")
        eventually("both go on", lambda: payloads(seen)[1:] == ["live", "live"])


def test_a_server_that_begins_anew_leaves_a_gap(serve):
    port = free_port()
    histories = [{"app": "shop", "channel": "orders"}]
    first = FrameworkServer(port=port, histories=histories)
    first.start()
    seen, events = [], []
    with client_of(port) as reader:
        reader.on_event(events.append)
        reader.subscribe("orders", seen.append)
        position = reader.publish("orders", 1, acknowledged=True)
        eventually("it came", lambda: payloads(seen) == [1])
        first.stop()
        second = FrameworkServer(port=port, histories=histories)
        second.start()
        try:
            eventually("a gap", lambda: any(event.name == "gap" for event in events))
            (gap,) = [event for event in events if event.name == "gap"]
            assert gap.seen == position and gap.missed is None
            assert reader.publish("orders", 2, acknowledged=True, timeout=STEP_SECONDS_MAX).epoch != position.epoch
            eventually("it goes on", lambda: payloads(seen) == [1, 2])
        finally:
            second.stop()


def test_only_the_newest_waits_for_a_slow_handler_that_conflates(client, server):
    with client_of(server.port) as publisher:
        begun, go, seen, by_pattern = threading.Event(), threading.Event(), [], []

        def slow(message):
            begun.set()
            assert go.wait(STEP_SECONDS_MAX)
            seen.append(message)

        client.subscribe("orders", slow, conflate=True)
        client.subscribe_pattern("rates.*", by_pattern.append, conflate=True)
        client.flush()
        publisher.publish("orders", "first")
        assert begun.wait(STEP_SECONDS_MAX)
        for number in range(1_000):
            publisher.publish("orders", number)
            publisher.publish(f"rates.{number % 3}", number)
        publisher.flush()
        client.flush()
        go.set()
        eventually("the newest came", lambda: len(by_pattern) == 3)
        assert payloads(seen) == ["first", 999] and client.missed == 0
        assert seen[1].offset == seen[0].offset + 1_000
        assert sorted(payloads(by_pattern)) == [997, 998, 999]
        publisher.publish("orders", "on")
        eventually("it goes on", lambda: payloads(seen) == ["first", 999, "on"])


def test_an_end_in_the_middle_of_a_recovery(server, client):
    for number in range(1_500):
        client.publish("large", "x" * 10_000)
    client.flush(STEP_SECONDS_MAX)
    for _ in range(3):
        begun = threading.Event()
        reader = client_of(server.port)
        reader.subscribe("large", lambda message: begun.set() or time.sleep(0.01), last=1_500)
        assert begun.wait(STEP_SECONDS_MAX)
        ended = time.monotonic()
        reader.close()
        assert time.monotonic() - ended < STEP_SECONDS_MAX / 2
    # And one that ends its subscription, but goes on.
    count = []
    client.subscribe("large", count.append, last=1_500)
    eventually("it has begun", lambda: count)
    client.unsubscribe("large")
    assert client.ping(STEP_SECONDS_MAX)


def test_a_client_that_connects_again_has_no_patterns(server):
    client, seen = client_of(server.port), []
    client.subscribe_pattern("again.*", seen.append)
    client.disconnect()
    with pytest.raises(ConnectionError):
        client.subscribe_pattern("again.*", seen.append)
    with pytest.raises(ConnectionError):
        client.publish("again.a", 1, acknowledged=True)
    assert client.connect()
    client.publish("again.a", 1)
    client.flush()
    assert client.get_connection_info()["subscribed_patterns"] == [] and seen == []
    client.subscribe_pattern("again.*", seen.append)
    client.publish("again.a", 2)
    eventually("it came", lambda: payloads(seen) == [2])
    client.disconnect()


def test_many_threads_change_patterns_at_once(client):
    seen = {number: [] for number in range(8)}
    kept, errors = [], []

    def change(number):
        try:
            for _ in range(50):
                client.subscribe_pattern(f"many.{number}.*", seen[number].append)
                client.unsubscribe_pattern(f"many.{number}.*")
                client.publish(f"many.{number}.a", 1, acknowledged=True, timeout=STEP_SECONDS_MAX)
            client.subscribe_pattern(f"many.{number}.*", kept.append)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and all(found == [] for found in seen.values())
    for number in seen:
        client.publish(f"many.{number}.a", number)
    eventually("each has its own", lambda: sorted(payloads(kept)) == list(seen))


def test_a_server_that_knows_none_of_it(caplog):
    server, seen = PublishedServer(), []
    with client_of(server.port) as client:
        for refused in (
            lambda: client.subscribe_pattern("a.*", print),
            lambda: client.subscribe("a", print, last=1),
            lambda: client.subscribe("a", print, since=("epoch", 1)),
            lambda: client.subscribe("a", print, conflate=True),
            lambda: client.publish("a", 1, retain=True),
            lambda: client.publish("a", 1, acknowledged=True),
        ):
            with pytest.raises(IPCError) as error:
                refused()
            assert error.value.code == "unsupported" and "update the server" in str(error.value)
        client.subscribe("a.*", seen.append)
        client.subscribe("b.>", seen.append)
        client.publish("a.*", 1)
        eventually("a plain one works as ever", lambda: payloads(seen) == [1])
        eventually("it warns", lambda: "subscribe_pattern subscribes to all channels" in caplog.text)
        assert caplog.text.count("subscribe_pattern") == 1, "once"
        assert seen[0].position is None and not seen[0].retained
    server.stop()


def test_no_answer_in_time_is_an_error(server):
    # Nobody listens behind this line while the server is asked.
    with Line(server.port) as line, client_of(line.port, reconnect=(5.0, 5.0)) as client:
        line.cut()
        eventually("the loss is seen", lambda: not client.connected)
        with pytest.raises((TimeoutError, ConnectionError)):
            client.publish("orders", 1, acknowledged=True, timeout=0.2)


FORK = """
import os, sys, threading
from ipc_framework import FrameworkClient
client = FrameworkClient("shop", "127.0.0.1", int(sys.argv[1]))
assert client.connect()
seen, came = [], threading.Event()
client.subscribe_pattern("forked.*", lambda message: seen.append(message.payload))
client.subscribe("orders", lambda message: seen.append(message.payload), last=1)
assert client.flush()

def use(payload):
    client.subscribe_pattern("forked.>", lambda message: (seen.append(message.payload), came.set()))
    place = client.publish("orders", payload, acknowledged=True)
    client.publish("forked.a", payload)
    assert came.wait(30) and payload in seen, seen
    return place.offset

if os.fork() == 0:
    assert client.get_connection_info()["subscribed_patterns"] == []
    del seen[:]
    assert client.connect()
    use("child")
    assert seen == ["child"], seen
    client.disconnect()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
use("parent")
client.disconnect()
print("all is well")
"""


def test_a_forked_child_has_subscriptions_of_its_own(server):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(server.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
    assert (ended.returncode, ended.stdout) == (0, "all is well\n"), ended.stdout + ended.stderr


def test_the_histories_of_a_server(serve):
    for histories, error in (
        ([{"app": "shop"}], TypeError),
        ([{"app": "shop", "channel": 5}], TypeError),
        ([{"app": "shop", "channel": "a", "size": 5}], TypeError),
        ([{"app": "shop", "channel": "a", "messages": "5"}], TypeError),
        (["shop"], TypeError),
        ([{"app": "shop", "channel": "a.>.b"}], ConnectionError),
        ([{"app": "shop", "channel": "a", "messages": 0}], ConnectionError),
        ([{"app": "shop", "channel": "a", "age": 0.0}], ConnectionError),
    ):
        with pytest.raises(error) as refused:
            serve(histories=histories).start()
        assert "history" in str(refused.value), refused.value
    with pytest.raises(TypeError):
        serve(retained_max="64MiB").start()
    few = serve(retained_max=1_000, histories=[{"app": "shop", "channel": "two", "messages": 2, "age": None}])
    few.start()
    with client_of(few.port) as client:
        with pytest.raises(IPCError) as refused:
            client.publish("price", "x" * 2_000, retain=True, acknowledged=True)
        assert refused.value.code == "limit_exceeded"
        for number in range(5):
            place = client.publish("two", number, acknowledged=True)
        seen = []
        client.subscribe("two", seen.append, last=5)
        eventually("two are kept", lambda: payloads(seen) == [3, 4])
        assert seen[-1].position == place


class Routes(FrameworkServer):
    def _handle_subscribe(self, message, channel):
        return super()._handle_subscribe(message, channel)

    def _handle_publish(self, message, channel):
        message.payload = [message.payload]
        return super()._handle_publish(message, channel)


def test_what_a_program_publishes_itself_is_kept_too(serve):
    server = serve(Routes, histories=HISTORIES)
    server.start()
    with client_of(server.port) as client:
        seen = []
        client.subscribe("orders", seen.append)
        client.flush()
        client.publish("orders", 1)
        eventually("it came", lambda: payloads(seen) == [[1]])
        assert seen[0].offset == 1
        client.unsubscribe("orders")
        client.subscribe("orders", seen.append, last=1)
        eventually("it was kept", lambda: payloads(seen) == [[1], [1]])
        # A subclass sees that the publisher wants it to be kept.
        client.publish("price", 2, retain=True, acknowledged=True)
        client.subscribe("price", seen.append, last=1)
        eventually("it was kept, too", lambda: payloads(seen[2:]) == [[2]])
        assert seen[2].retained
        by_pattern = []
        client.subscribe_pattern("rates.*", by_pattern.append, conflate=True)
        client.flush()
        server.publish("shop", "rates.eur", 3)
        eventually("the pattern is one", lambda: payloads(by_pattern) == [3])
        assert server.list_channels("shop").keys() == {"orders", "price"}, "no channel has its name"


class Guards(FrameworkServer):
    def _handle_subscribe(self, message, channel):
        if channel.channel_id == "prices.secret":
            raise ValueError("nobody hears this")
        return super()._handle_subscribe(message, channel)


def test_a_pattern_does_not_reach_what_a_server_refuses(serve):
    server = serve(Guards)
    server.start()
    with client_of(server.port) as client:
        seen = []
        client.subscribe_pattern("prices.*", seen.append)
        client.flush()
        for name in ("prices.secret", "prices.tea", "prices.secret", "prices.tea"):
            client.publish(name, name)
        eventually("the others came", lambda: payloads(seen) == ["prices.tea"] * 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_publishes_itself(serve, workers):
    server = serve(histories=HISTORIES, workers=workers)
    with pytest.raises(ConnectionError):
        server.publish("shop", "price", 1)

    @server.create_application("shop").create_channel("set").serve
    def set_price(request):
        # From the thread of a handler, which may be the loop's.
        server.publish("shop", "price", request.payload, retain=True)
        return "done"

    server.start()
    server.publish("shop", "orders", {"order": 1})
    with client_of(server.port) as client:
        seen, by_pattern = [], []
        client.subscribe("orders", seen.append, last=1)
        eventually("it was kept", lambda: payloads(seen) == [{"order": 1}] and seen[0].offset == 1)
        assert client.send_request("set", 5).payload == "done"
        client.subscribe("price", seen.append, last=1)
        eventually("the last value came", lambda: payloads(seen[1:]) == [5] and seen[1].retained)
        client.subscribe_pattern(">", by_pattern.append)
        client.flush()
        server.publish("shop", "price", None, retain=True)
        eventually("all hear that it is gone", lambda: payloads(seen[2:]) == [None] == payloads(by_pattern))
        client.unsubscribe("price")
        client.subscribe("price", seen.append, last=1)
        server.publish("shop", "price", 6)
        eventually("nothing was kept", lambda: payloads(seen[3:]) == [6])
    with pytest.raises(TypeError):
        server.publish("shop", 5, 1)
    with pytest.raises(ValueError):
        server.publish("shop", "", 1)
    with pytest.raises((TypeError, ValueError)):
        server.publish("shop", "price", object())
