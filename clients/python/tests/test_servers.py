"""Clients of several servers, some of which end, refuse, drain or never answer."""

import asyncio
import contextlib
import json
import socket
import threading

import pytest
from peers import RustServer, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient, FrameworkServer, aio
from ipc_framework.exceptions import AuthenticationError, ConnectionError

QUICK = (0.01, 0.05)
#: Pauses that a test would not survive.
NEVER = (1e8, 1e8)


def at(*servers):
    return [f"127.0.0.1:{server.port}" for server in servers]


class Refusing:
    """A port at which nothing listens, and where nothing else can begin to."""

    def __enter__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        return self

    def __exit__(self, *_):
        self.socket.close()


class Answering:
    """A server that answers `connect` like this and closes the connection, or never answers."""

    def __init__(self, payload):
        self.payload = payload
        self.asked = 0

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.asked += 1
                self.open.append(client)
                if self.payload is not None:
                    with contextlib.suppress(OSError, ValueError):
                        self.answer(client)

    def answer(self, client):
        stream = client.makefile("rb")
        connect = json.loads(stream.read(int.from_bytes(stream.read(4), "big")))
        answer = {**connect, "message_type": "response", "payload": self.payload, "reply_to": connect["message_id"]}
        body = json.dumps(answer).encode()
        client.sendall(len(body).to_bytes(4, "big") + body)
        stream.close()
        client.close()

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for client in self.open:
            client.close()


def welcoming():
    return Answering({"status": "connected"})


def refusing_by(code):
    return Answering({"status": "error", "code": code, "error": "the test wants it like this"})


@contextlib.contextmanager
def connected(**options):
    client = FrameworkClient("bench", **{"reconnect": QUICK, **options})
    assert client.connect(), client.last_error
    with client:
        yield client


def test_what_a_client_subscribes_to_and_serves_goes_on_at_the_next_server():
    first, second, third = RustServer(), RustServer(), RustServer()
    told, seen = [], []
    try:
        with connected(hosts=at(first, second, third)) as client:
            client.on_event(lambda event: told.append((event.name, event.address)))
            client.subscribe("news", lambda message: seen.append(message.payload))
            client.serve("mine", lambda message: message.payload)

            def goes_on(server):
                (address,) = at(server)
                eventually("the next server", lambda: client.get_connection_info()["address"] == address)
                eventually("it is connected", lambda: client.connected)
                assert client.send_request("mine", address, STEP_SECONDS_MAX).payload == address
                client.publish("news", address)
                eventually("it came", lambda: seen[-1:] == [address])

            goes_on(first)
            first.kill()
            goes_on(second)
            # A drain is the end of a connection, too.
            second.stop()
            goes_on(third)
            third.kill()
            first = RustServer(port=first.port)
            goes_on(first)
        one, two, three = at(first, second, third)
        changes = [one for one in told if one[0] in ("connected", "disconnected")]
        assert changes == [
            ("disconnected", one),
            ("connected", two),
            ("disconnected", two),
            ("connected", three),
            ("disconnected", three),
            ("connected", one),
        ]
    finally:
        for server in (first, second, third):
            server.kill()


def test_each_server_is_tried_before_a_pause_also_one_that_welcomes_and_closes(rust):
    with welcoming() as first, Refusing() as second:
        with connected(hosts=at(first, second, rust), reconnect=NEVER) as client:
            (last,) = at(rust)
            eventually("the last one", lambda: client.get_connection_info()["address"] == last and client.connected)
            assert client.send_request("echo", 1, STEP_SECONDS_MAX).payload == 1
        assert first.asked == 1


def test_a_server_that_never_answers_leaves_time_for_the_others(rust):
    with Answering(None) as silent, Refusing() as refusing:
        with connected(hosts=at(silent, rust), connection_timeout=3.0) as client:
            assert client.send_request("echo", 1, STEP_SECONDS_MAX).payload == 1
        client = FrameworkClient("bench", hosts=at(silent, refusing), connection_timeout=0.2)
        assert not client.connect()
        error = client.last_error
        assert isinstance(error, ConnectionError) and error.code == "unreachable"
        for address, reason in zip(at(silent, refusing), ("did not come", "refused")):
            assert f"{address} (" in str(error) and reason in str(error)


def test_a_server_that_refuses_is_passed_over(rust):
    with refusing_by("auth_failed") as one, refusing_by("auth_failed") as two, refusing_by("server_full") as full:
        with connected(hosts=at(one, full, rust)) as client:
            assert client.get_connection_info()["address"] == at(rust)[0]
        client = FrameworkClient("bench", hosts=at(one, two))
        assert not client.connect()
        assert isinstance(client.last_error, AuthenticationError) and client.last_error.code == "auth_failed"
        client = FrameworkClient("bench", hosts=at(one, full))
        assert not client.connect()
        assert client.last_error.code == "unreachable"


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_what_a_second_server_does_not_know_is_a_gap(kind):
    histories = [{"app": "bench", "channel": "kept"}]
    first, second = (FrameworkServer(port=0, histories=histories) for _ in range(2))
    first.start()
    second.start()
    told = []

    async def tasks():
        async with aio.connect("bench", hosts=",".join(at(first, second)), reconnect=QUICK) as client:
            client.on_event(told.append)
            kept = client.subscribe("kept")
            here = await client.publish("kept", "here", acknowledged=True)
            assert (await kept.__anext__()).payload == "here"
            await asyncio.get_running_loop().run_in_executor(None, first.stop)
            while not any(event.name == "gap" for event in told):
                await asyncio.sleep(0.01)
            with connected(hosts=at(second)) as publisher:
                publisher.publish("kept", "live")
                assert (await kept.__anext__()).payload == "live"
        return here

    try:
        with connected(hosts=at(second)) as publisher:
            there = publisher.publish("kept", "before it came", acknowledged=True)
        if kind == "tasks":
            here = asyncio.run(asyncio.wait_for(tasks(), STEP_SECONDS_MAX))
        else:
            with connected(hosts=at(first, second)) as client:
                seen = []
                client.on_event(told.append)
                client.subscribe("kept", seen.append)
                here = client.publish("kept", "here", acknowledged=True)
                eventually("it came", lambda: len(seen) == 1)
                first.stop()
                eventually("a gap", lambda: any(event.name == "gap" for event in told))
                client.publish("kept", "live")
                eventually("it goes on", lambda: [one.payload for one in seen] == ["here", "live"])
        (gap,) = [event for event in told if event.name == "gap"]
        assert (gap.seen, gap.newest, gap.missed) == (here, there, None)
        assert not any(event.name == "resumed" for event in told)
    finally:
        first.stop()
        second.stop()


def test_random_orders_spread_clients(rust, tmp_path):
    other = RustServer("--unix", tmp_path / "there.sock")
    try:
        addresses = set()
        for _ in range(100):
            with connected(hosts=at(rust, other), address_order="random") as client:
                addresses.add(client.get_connection_info()["address"])
            if len(addresses) == 2:
                break
        assert addresses == set(at(rust, other))
        paths = [tmp_path / "missing.sock", tmp_path / "there.sock"]
        with connected(unix=paths) as client:
            assert client.get_connection_info()["address"] == str(paths[1])
    finally:
        other.stop()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"hosts": ""}, "empty"),
        ({"hosts": "a,"}, "empty"),
        ({"hosts": []}, "hosts is a list"),
        ({"hosts": [1]}, "hosts is a list"),
        ({"hosts": 5}, "hosts is a list"),
        ({"hosts": "a:"}, "port"),
        ({"hosts": "a:0"}, "port"),
        ({"hosts": "1:2:3"}, "no address"),
        ({"hosts": "[::1"}, "no address"),
        ({"hosts": "/run/x"}, "Unix socket"),
        ({"hosts": "a,b,a:8888"}, "a:8888 is there twice"),
        ({"hosts": "a", "unix": "/x"}, "cannot be mixed"),
        ({"hosts": "a", "host": "b"}, "host or hosts"),
        ({"hosts": "a", "port": 0}, "port is a number"),
        ({"unix": []}, "unix is the path"),
        ({"unix": 5}, "unix is the path"),
        ({"unix": ["/x", "/x"]}, "/x is there twice"),
        ({"address_order": "shuffled"}, "'listed' or 'random'"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_by_a_sentence(options, expected):
    client = FrameworkClient("bench", **options)
    assert not client.connect()
    assert isinstance(client.last_error, ConnectionError) and expected in str(client.last_error)

    async def tasks():
        with pytest.raises(ConnectionError, match=expected.replace("[", r"\[")):
            await aio.connect("bench", **options)

    asyncio.run(tasks())
