"""The life of servers in one process: locks, threads, restarts, and what is left of one that has ended."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import pickle
import threading
import time
import weakref
from typing import Any, Callable, Dict, List

import pytest

from ipc_framework import FrameworkServer, Message, MessageType, _running
from peers import STEP_SECONDS_MAX, eventually
from wire import Peer, first_peer

Serve = Callable[..., FrameworkServer]


def in_threads(*works: Callable[[], Any]) -> "List[threading.Thread]":
    """Daemons, so that a deadlock fails the test and does not hold the process."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def test_handlers_and_threads_create_applications_and_channels_at_once(serve: Serve) -> None:
    server = serve()
    app = server.create_application("app")
    asking = threading.Semaphore(0)

    @app.create_channel("make").serve
    def make(request: Message) -> str:
        # The other thread is on its way to the loop, which runs this.
        asking.release()
        time.sleep(0.05)
        app.create_channel(f"c{request.payload}")
        return server.create_application(f"a{request.payload}").app_id

    peer = first_peer(server)

    def others() -> None:
        for n in range(3):
            assert asking.acquire(timeout=STEP_SECONDS_MAX)
            server.create_application(f"other{n}")
            assert asking.acquire(timeout=STEP_SECONDS_MAX)
            app.create_channel(f"other{n}")

    (thread,) = in_threads(others)
    for n in range(6):
        assert peer.ask("make", n) == f"a{n}"
    thread.join(STEP_SECONDS_MAX)
    assert not thread.is_alive()


def test_a_handler_may_create_while_the_server_starts(serve: Serve) -> None:
    server = serve()
    app = server.create_application("app")
    app.create_channel("make").serve(lambda request: server.create_application("new").app_id)
    for n in range(300):
        app.create_channel(f"c{n}").serve(lambda request: n)
    server.start()
    port = server.port
    answers: List[Any] = []

    def ask() -> None:
        # There before the server is, and again whenever that comes back.
        while len(answers) < 200:
            try:
                peer = Peer(server, connection_id=f"{threading.get_ident()}")
                while len(answers) < 200:
                    answers.append(peer.ask("make"))
                    answers.append(peer.ask("c299"))
            except (OSError, EOFError, AssertionError):
                pass

    threads = in_threads(ask, ask)
    for _ in range(10):
        server.stop()
        server.start()
    eventually("the answers", lambda: len(answers) >= 200)
    for thread in threads:
        thread.join(STEP_SECONDS_MAX)
        assert not thread.is_alive()
    assert set(map(str, answers)) == {"new", "299"}, "whoever is answered is answered by the handlers"
    assert server.port == port


@pytest.mark.parametrize("workers", [0, 2])
def test_coroutines_in_flight_are_drained(serve: Serve, workers: int) -> None:
    server = serve(workers=workers)
    app = server.create_application("app")
    begun, go_on = threading.Event(), threading.Event()

    @app.create_channel("served").serve
    async def served(request: Message) -> Any:
        begun.set()
        while not go_on.is_set():
            await asyncio.sleep(0.005)
        return request.payload

    async def forgetful(request: Message) -> None:
        await served(request)

    app.create_channel("forgotten").set_handler(MessageType.REQUEST, forgetful)
    peer = first_peer(server)
    ids = [peer.send("request", "served", "done"), peer.send("request", "forgotten", None)]
    peer.fence()
    assert begun.wait(STEP_SECONDS_MAX)
    (stopping,) = in_threads(server.stop)
    notice = peer.receive()
    assert (notice["reply_to"], notice["payload"]["code"]) == (None, "shutting_down")
    go_on.set()
    answers: Dict[str, Any] = {}
    for _ in ids:
        answer = peer.receive()
        answers[answer["reply_to"]] = answer["payload"]
    assert answers[ids[0]] == "done"
    assert "nobody has answered" in answers[ids[1]]["error"], "and nobody waits for one that is over"
    peer.close()
    stopping.join(STEP_SECONDS_MAX)
    assert not stopping.is_alive() and not server.running


@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_that_its_handler_stops_ends_whole(serve: Serve, workers: int) -> None:
    server = serve(workers=workers, limits={"drain_timeout": STEP_SECONDS_MAX})
    app = server.create_application("app")

    @app.create_channel("later").serve
    async def later(request: Message) -> str:
        return "later"

    # It answers nothing, and nobody else does.
    app.create_channel("stop").set_handler(MessageType.REQUEST, lambda message: server.stop())
    for _ in range(3):
        server.port = 0
        peer = first_peer(server)
        assert peer.ask("later") == "later"
        id = peer.send("request", "stop", None)
        answers = {one["reply_to"]: one["payload"]["code"] for one in (peer.receive(), peer.receive())}
        assert answers == {None: "shutting_down", id: "handler_failed"}
        peer.close()
        eventually("its end", lambda: not server.running)
        assert server.wait(STEP_SECONDS_MAX)
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith("ipc-")]
        assert left == [] and server not in _running._servers


def test_a_handler_that_does_not_return_is_left_behind(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(workers=1, limits={"drain_timeout": 0.1})
    begun, go_on = threading.Event(), threading.Event()

    @server.create_application("app").create_channel("stuck").serve
    def stuck(request: Message) -> None:
        begun.set()
        go_on.wait()

    peer = first_peer(server)
    peer.send("request", "stuck", None)
    assert begun.wait(STEP_SECONDS_MAX)
    (stopping,) = in_threads(server.stop)
    stopping.join(STEP_SECONDS_MAX)
    try:
        assert not stopping.is_alive() and not server.running
        assert "ipc-worker-0 is left behind" in caplog.text
    finally:
        go_on.set()


@pytest.mark.parametrize("workers", [0, 1])
def test_who_logs_a_failure_may_fail(serve: Serve, workers: int) -> None:
    class Fails(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise OSError("the disk is full")

    server = serve(workers=workers)

    @server.create_application("app").create_channel("bad").serve
    def bad(request: Message) -> None:
        raise KeyError("not there")

    peer = first_peer(server)
    fails = Fails()
    logging.getLogger("ipc_framework").addFilter(fails)
    try:
        for _ in range(3):
            assert "the disk is full" in peer.ask("bad")["error"]
    finally:
        logging.getLogger("ipc_framework").removeFilter(fails)
    assert "not there" in peer.ask("bad")["error"]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_left_of_a_server_that_has_ended(workers: int) -> None:
    class Keeps(FrameworkServer):
        def __init__(self) -> None:
            super().__init__(port=0, workers=workers)
            self.kept: List[Any] = []

    def one() -> "weakref.ref[FrameworkServer]":
        server = Keeps()

        def handler(message: Message) -> None:
            connection = server.connection_manager.get_connection("me")
            server.kept += [message, connection, message.create_response(1)]
            server.send_to_connection(None, message.create_response(1))

        server.create_application("app").create_channel("c").set_handler(MessageType.REQUEST, handler)
        peer = first_peer(server)
        assert peer.ask("c") == 1
        peer.close()
        server.stop()
        return weakref.ref(server)

    one()
    gc.collect()
    descriptors = len(os.listdir("/dev/fd"))
    servers = [one() for _ in range(5)]
    gc.collect()
    assert [server() for server in servers] == [None] * 5
    assert len(os.listdir("/dev/fd")) <= descriptors


def test_a_server_may_end_at_any_time(serve: Serve) -> None:
    server = serve()
    app = server.create_application("app")
    channel = app.create_channel("c")
    note = Message("", "app", "c", MessageType.NOTIFICATION, 1, 0)
    peer = first_peer(server)
    connection = server.connection_manager.get_connection("me")
    peer.close()
    failed: List[Exception] = []
    is_over = False
    calls: List[Callable[[], Any]] = [
        server.get_stats,
        server.list_applications,
        lambda: server.list_channels("app"),
        lambda: server.applications,
        lambda: server.get_application("other"),
        lambda: server.create_application("other"),
        lambda: app.channels,
        lambda: app.last_activity,
        lambda: app.create_channel("other"),
        lambda: app.remove_channel("other"),
        channel.get_subscribers,
        lambda: channel.add_subscriber("x"),
        lambda: channel.remove_subscriber("x"),
        lambda: server._handle_publish(note, channel),
        lambda: server.broadcast_to_application("app", note),
        lambda: server.send_to_connection(connection, note),
        lambda: server.send_to_connection(None, note),
        connection.close,
    ]

    def call() -> None:
        while not is_over:
            for one in calls:
                try:
                    one()
                except Exception as error:
                    failed.append(error)

    threads = in_threads(call, call)
    for _ in range(20):
        server.stop()
        server.start()
    is_over = True
    for thread in threads:
        thread.join(STEP_SECONDS_MAX)
        assert not thread.is_alive()
    assert failed == []


def test_what_handlers_get_can_be_copied_and_kept(serve: Serve) -> None:
    server = serve()
    asked: List[Message] = []
    server.create_application("app").create_channel("c").set_handler(MessageType.REQUEST, asked.append)
    peer = first_peer(server)
    id = peer.send("request", "c", {"a": [1]})
    peer.fence()
    (message,) = asked
    copies = [pickle.loads(pickle.dumps(message)), copy.deepcopy(message), copy.copy(message), Message(**vars(message))]
    assert copies == [message] * 4
    copies[1].payload["a"].append(2)
    assert message.payload == {"a": [1]}
    server.send_to_connection(None, copies[0].create_response("of a copy"))
    answer = peer.receive()
    assert (answer["reply_to"], answer["payload"]) == (id, "of a copy")


def test_an_application_of_clients_is_one(serve: Serve) -> None:
    server = serve()
    peer = first_peer(server, "dynamic")
    first, second = server.get_application("dynamic"), server.get_application("dynamic")
    assert first is not None and second is not None
    assert first.created_at == second.created_at
    first.create_channel("x").serve(lambda request: "x")
    second.create_channel("y").serve(lambda request: "y")
    before = first.last_activity
    assert peer.ask("x") == "x" and first.last_activity > before
    peer.close()
    server.stop()
    peer = first_peer(server, "dynamic")
    assert (peer.ask("x"), peer.ask("y")) == ("x", "y")


def test_an_override_may_forget_what_it_returns(serve: Serve) -> None:
    class Forgetful(FrameworkServer):
        def route_message(self, message: Message) -> bool:
            super().route_message(message)
            return None  # type: ignore[return-value]

    server = serve(Forgetful)
    asked: List[Message] = []
    server.create_application("app").create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    peer = first_peer(server)
    peer.subscribe("news")
    peer.send("publish", "news", 1)
    assert peer.receive()["payload"] == 1
    peer.send("request", "later", 2)
    peer.fence()
    server.send_to_connection(None, asked[0].create_response("later"))
    assert peer.receive()["payload"] == "later"
