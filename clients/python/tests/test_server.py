"""The server, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, Callable, Dict, List

import pytest

from ipc_framework import FrameworkServer, Message, MessageType
from ipc_framework.exceptions import ConnectionError
from peers import STEP_SECONDS_MAX, eventually
from wire import Peer, first_peer

Serve = Callable[..., FrameworkServer]


def echo(server: FrameworkServer, look_up: bool = False) -> Callable[[Message], None]:
    """As the published examples answer, whose look-up finds nobody unless clients say who they are."""

    def handler(message: Message) -> None:
        id = message.payload.get("connection_id") if look_up else None
        connection = server.connection_manager.get_connection(id)
        server.send_to_connection(connection, message.create_response({"echo": message.payload}))

    return handler


@pytest.mark.parametrize("workers", [0, 3])
def test_a_response_without_a_connection_reaches_whoever_asked(serve: Serve, workers: int) -> None:
    server = serve(workers=workers)
    api = server.create_application("app", "App").create_channel("api")
    api.set_handler(MessageType.REQUEST, echo(server, look_up=True))
    server.start()
    one, two = Peer(server, connection_id="one"), Peer(server, connection_id="two")
    assert one.ask("api", {"a": 1}) == {"echo": {"a": 1}}
    assert two.ask("api", {"connection_id": "two"}) == {"echo": {"connection_id": "two"}}
    one.fence()
    two.fence()


def test_the_response_is_the_one_the_handler_made(serve: Serve) -> None:
    server = serve()
    made: List[Message] = []

    def handler(message: Message) -> None:
        made.append(message.create_response("own"))
        server.send_to_connection(None, made[0])

    server.create_application("app").create_channel("api").set_handler(MessageType.REQUEST, handler)
    peer = first_peer(server)
    id = peer.send("request", "api", None)
    answer = peer.receive()
    assert answer == {**made[0].to_dict(), "reply_to": id}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_response_built_by_hand_is_told_by_its_reply_to(serve: Serve, workers: int) -> None:
    server = serve(workers=workers)
    asked: List[Message] = []
    server.create_application("app").create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    server.start()
    peer, other = Peer(server), Peer(server, connection_id="other")
    ids = [peer.send("request", "later", n) for n in range(3)]
    eventually("the requests", lambda: len(asked) == 3)
    peer.fence()
    for message in sorted(asked, key=lambda message: -message.payload):
        response = Message("", "app", "later", MessageType.RESPONSE, message.payload, 0, message.message_id)
        server.send_to_connection(None, response)
    answers = [peer.receive() for _ in ids]
    assert [(one["reply_to"], one["payload"]) for one in answers] == [(ids[n], n) for n in (2, 1, 0)]
    other.fence()


def test_two_requesters_may_use_one_id(serve: Serve) -> None:
    server = serve()
    asked: List[Message] = []
    server.create_application("app").create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    server.start()
    peers = [Peer(server, connection_id="a"), Peer(server, connection_id="b")]
    for peer in peers:
        body = Message("same", "app", "later", MessageType.REQUEST, peer.connection_id, 1).to_json().encode()
        peer.socket.sendall(len(body).to_bytes(4, "big") + body)
    eventually("the requests", lambda: len(asked) == 2)
    for message in reversed(asked):
        server.send_to_connection(None, message.create_response(message.payload))
    for peer in peers:
        answer = peer.receive()
        assert (answer["payload"], answer["reply_to"]) == (peer.connection_id, "same")


@pytest.mark.parametrize("workers", [0, 2])
def test_serve_answers_with_what_is_returned(serve: Serve, workers: int) -> None:
    server = serve(workers=workers)
    math = server.create_application("math")

    @math.create_channel("square").serve
    def square(request: Message) -> Any:
        return request.payload**2

    @math.create_channel("slow").serve
    async def slow(request: Message) -> Any:
        await asyncio.sleep(0.01)
        return [request.payload, None]

    @math.create_channel("none").serve
    def none(request: Message) -> None:
        pass

    peer = first_peer(server, "math")
    assert peer.ask("square", 2**70) == 2**140
    assert peer.ask("slow", "x") == ["x", None]
    assert peer.ask("none") is None
    assert server.list_channels("math")["square"]["subscribers"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_handler_raises_is_logged_and_told(
    serve: Serve, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(workers=workers)
    app = server.create_application("app")

    def fails(message: Message) -> None:
        raise KeyError("no such thing")

    async def fails_later(message: Message) -> None:
        await asyncio.sleep(0)
        raise SystemExit("a handler does not end the program")

    def not_json(message: Message) -> None:
        server.send_to_connection(None, message.create_response(float("nan")))

    for name, handler in (("sync", fails), ("async", fails_later), ("nan", not_json)):
        app.create_channel(name).set_handler(MessageType.REQUEST, handler)
    peer = first_peer(server)
    told = {name: peer.ask(name, {}) for name in ("sync", "async", "nan")}
    assert {answer["code"] for answer in told.values()} == {"handler_failed"}
    assert "KeyError: 'no such thing'" in told["sync"]["error"]
    assert "a handler does not end the program" in told["async"]["error"]
    assert "send None" in told["nan"]["error"]
    failures = [record for record in caplog.records if record.exc_info]
    assert len(failures) == 3 and all(record.name == "ipc_framework" for record in failures)
    peer.fence()


def test_who_is_not_served_gets_an_answer_and_workers_still_work(serve: Serve) -> None:
    server = serve()
    server.create_application("app").create_channel("mute")
    server.start()
    peer, worker = Peer(server), Peer(server, connection_id="worker")
    assert peer.ask("mute")["code"] == "no_handler"
    assert peer.ask("nowhere")["code"] == "no_handler"
    assert worker.ask("system", {"action": "serve", "channel": "mute"})["status"] == "serving"
    peer.send("request", "mute", 5)
    request = worker.receive()
    worker.send("response", "mute", request["payload"] + 1, request["message_id"])
    assert peer.receive()["payload"] == 6


def test_handlers_come_and_go_while_it_runs(serve: Serve) -> None:
    server = serve()
    peer = first_peer(server, "dynamic")
    assert peer.ask("c")["code"] == "no_handler"
    application = server.get_application("dynamic")
    assert application is not None and application.list_channels() == ["c"]
    channel = application.get_channel("c")
    assert channel is not None and channel.get_handler(MessageType.REQUEST) is None
    channel.set_handler(MessageType.REQUEST, echo(server))
    assert peer.ask("c", 1) == {"echo": 1}
    assert server.get_application("dynamic") is application, "it is the program's now"
    channel.set_handler(MessageType.REQUEST, lambda m: server.send_to_connection(None, m.create_response("new")))
    assert peer.ask("c", 1) == "new"
    assert application.remove_channel("c") and not application.remove_channel("never")
    assert peer.ask("c")["code"] == "no_handler"
    assert server.get_application("nobody's") is None


def test_notifications_and_responses_have_handlers_too(serve: Serve) -> None:
    server = serve()
    heard: List[Any] = []
    channel = server.create_application("app").create_channel("c")
    channel.set_handler(MessageType.NOTIFICATION, lambda message: heard.append(message.payload))
    channel.set_handler(MessageType.RESPONSE, lambda message: heard.append(message.reply_to))
    peer = first_peer(server)
    peer.send("notification", "c", "note")
    peer.send("response", "c", None, "x")
    peer.fence()
    assert heard == ["note", "x"]


def test_publications_are_fanned_out_by_hand_and_by_clients(serve: Serve) -> None:
    server = serve()
    channel = server.create_application("chat").create_channel("room")
    server.start()
    ada, bob = Peer(server, "chat", "ada"), Peer(server, "chat", "bob")
    ada.subscribe("room")
    channel.add_subscriber("bob")
    channel.add_subscriber("later")
    assert sorted(channel.get_subscribers()) == ["ada", "bob", "later"]
    later = Peer(server, "chat", "later")
    ada.send("publish", "room", {"text": "hi"})
    note = Message("", "chat", "lobby", MessageType.NOTIFICATION, "by hand", 0)
    for peer in (ada, bob, later):
        assert peer.receive()["payload"] == {"text": "hi"}
    assert server._handle_publish(note, channel)
    for peer in (ada, bob, later):
        got = peer.receive()
        assert (got["payload"], got["channel_id"], got["message_id"]) == ("by hand", "lobby", note.message_id)
    channel.remove_subscriber("bob")
    bob.fence()
    later.close()
    eventually("the end of a dead subscriber", lambda: channel.get_subscribers() == ["ada"])
    server.broadcast_to_application("chat", note)
    assert ada.receive()["payload"] == bob.receive()["payload"] == "by hand"


def test_a_handler_speaks_with_its_own_server(serve: Serve) -> None:
    server = serve()
    app = server.create_application("app")
    seen: Dict[str, Any] = {}

    def handler(message: Message) -> None:
        seen["stats"] = server.get_stats()
        seen["applications"] = server.list_applications()
        channel = app.create_channel("new")
        channel.add_subscriber("me")
        seen["subscribers"] = channel.get_subscribers()
        server.send_to_connection(server.connection_manager.get_connection("me"), message.create_response(1))
        server._handle_publish(Message("", "app", "new", MessageType.PUBLISH, 2, 0), channel)

    app.create_channel("api").set_handler(MessageType.REQUEST, handler)
    peer = first_peer(server)
    assert peer.ask("api") == 1
    assert peer.receive()["payload"] == 2, "after the answer, as it was sent"
    assert seen["stats"]["total_connections"] == seen["applications"]["app"]["connections"] == 1
    assert seen["subscribers"] == ["me"]


def test_route_message_sees_everything_first(serve: Serve) -> None:
    class Strict(FrameworkServer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.routed: List[str] = []

        def route_message(self, message: Message) -> bool:
            self.routed.append(message.message_type.value)
            if message.payload == "forbidden":
                return False
            if message.message_type is MessageType.PUBLISH:
                message.payload = {"stamped": message.payload}
            return super().route_message(message)

    server = serve(Strict)
    server.create_application("app").create_channel("api").set_handler(MessageType.REQUEST, echo(server))
    server.start()
    peer, worker = Peer(server), Peer(server, connection_id="worker")
    peer.subscribe("news")
    peer.send("publish", "news", 1)
    assert peer.receive()["payload"] == {"stamped": 1}
    assert peer.ask("api", 2) == {"echo": 2}
    refused = peer.ask("api", "forbidden")
    assert refused["code"] == "handler_failed" and "turned this message away" in refused["error"]
    peer.send("publish", "news", "forbidden")
    assert peer.receive()["payload"]["code"] == "forbidden"
    assert peer.ask("nobody", 1)["code"] == "no_handler"
    worker.ask("system", {"action": "serve", "channel": "nobody"})
    peer.send("request", "nobody", 3)
    assert worker.receive()["payload"] == 3
    id = peer.send("subscribe", "news", {"connection_id": "worker"})
    answer = peer.receive()
    assert (answer["reply_to"], answer["payload"]["code"]) == (id, "forbidden"), "of others it is not done"
    news = server.create_application("app").create_channel("news")
    assert news.get_subscribers() == ["me"]
    peer.send("unsubscribe", "news", {"connection_id": "me"})
    peer.fence()
    assert news.get_subscribers() == []
    assert set(server.routed) == {"subscribe", "unsubscribe", "publish", "request"}  # type: ignore[attr-defined]


def test_send_to_connection_may_be_overridden(serve: Serve) -> None:
    class Logged(FrameworkServer):
        sent: List[str] = []

        def send_to_connection(self, connection: Any, message: Message) -> None:
            self.sent.append(getattr(connection, "connection_id", "?"))
            super().send_to_connection(connection, message)

    server = serve(Logged)
    peer = first_peer(server)
    peer.subscribe("news")
    peer.send("publish", "news", 1)
    assert peer.receive()["payload"] == 1
    assert Logged.sent == ["me"]


def test_a_connection_manager_of_ones_own_is_told(serve: Serve) -> None:
    class Manager:
        def __init__(self) -> None:
            self.connections: Dict[str, Any] = {}

        def add_connection(self, id: str, connection: Any, app_id: str) -> None:
            self.connections[id] = connection

        def remove_connection(self, id: str) -> None:
            del self.connections[id]

    server = serve()
    server.connection_manager = manager = Manager()
    peer = first_peer(server)
    peer.fence()
    server.send_to_connection(manager.connections["me"], Message("", "app", "c", MessageType.NOTIFICATION, 1, 0))
    assert peer.receive()["payload"] == 1
    peer.close()
    eventually("its end", lambda: not manager.connections)


def test_the_published_attributes_are_there(serve: Serve) -> None:
    server = serve(max_connections=2)
    app = server.create_application("app", "The App")
    assert server.applications == {"app": app} and app.channels == {}
    channel = app.create_channel("c")
    assert app.channels == {"c": channel} and app.get_channel("c") is channel and app.get_channel("d") is None
    assert server.get_stats()["running"] is False and server.list_channels("app")["c"]["subscribers"] == 0
    server.start()
    peer, second = Peer(server), Peer(server, "another", "second")
    assert set(server.applications) == {"app", "another"}
    manager = server.connection_manager
    assert sorted(manager.list_connections()) == ["me", "second"]
    assert manager.get_connections_for_app("another") == ["second"]
    assert manager.connection_apps == {"me": "app", "second": "another"}
    assert manager.get_connection("me") == server.client_sockets["me"] == manager.connections["me"]
    assert manager.get_connection("nobody") is None
    stats = server.get_stats()
    assert (stats["total_connections"], stats["max_connections"], stats["port"]) == (2, 2, server.port)
    assert Peer(server, connection_id="third").welcome["payload"]["code"] == "server_full"
    manager.get_connection("second").close()
    with pytest.raises(EOFError):
        second.receive()
    peer.fence()


def test_it_stops_drained_and_starts_again(serve: Serve) -> None:
    server = serve(workers=1)
    answering, go_on = threading.Event(), threading.Event()

    def slow(message: Message) -> None:
        answering.set()
        assert go_on.wait(STEP_SECONDS_MAX)
        server.send_to_connection(None, message.create_response("done"))

    channel = server.create_application("app").create_channel("slow")
    channel.set_handler(MessageType.REQUEST, slow)
    channel.add_subscriber("early")
    server.stop()
    server.start()
    server.start()
    port = server.port
    early = Peer(server, connection_id="early")
    early.send("publish", "slow", "heard")
    assert early.receive()["payload"] == "heard", "subscribed before the start"
    peer = Peer(server)
    id = peer.send("request", "slow", None)
    assert answering.wait(STEP_SECONDS_MAX)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert peer.receive()["payload"]["code"] == "shutting_down", "the notice to all"
    go_on.set()
    answer = peer.receive()
    assert (answer["reply_to"], answer["payload"]) == (id, "done")
    stopping.join(STEP_SECONDS_MAX)
    assert not server.running and server.wait(0) and server.server_thread is not None
    server.stop()
    server.start()
    assert server.port == port
    assert Peer(server).ask("slow") == "done"


def test_stop_does_not_wait_for_answers_nobody_works_on(serve: Serve) -> None:
    server = serve()
    server.create_application("app").create_channel("void").set_handler(MessageType.REQUEST, lambda message: None)
    peer = first_peer(server)
    id = peer.send("request", "void", None)
    peer.fence()
    # With the drain's own timeout of 10 s the notice to all would come first.
    begin = time.monotonic()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    answers = [peer.receive() for _ in range(2)]
    assert {answer["reply_to"] for answer in answers} == {id, None}
    peer.close()
    stopping.join(STEP_SECONDS_MAX)
    assert not server.running and time.monotonic() - begin < STEP_SECONDS_MAX


def test_a_handler_may_stop_its_server(serve: Serve) -> None:
    server = serve()
    server.create_application("app").create_channel("stop").set_handler(
        MessageType.REQUEST, lambda message: server.stop()
    )
    server.start()
    Peer(server).send("request", "stop", None)
    assert server.wait(STEP_SECONDS_MAX) and not server.running


def test_why_it_cannot_start_is_said(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    first = serve()
    first.start()
    with pytest.raises(ConnectionError, match="Failed to start server"):
        FrameworkServer(port=first.port).start()
    with pytest.raises(ConnectionError, match="token"):
        FrameworkServer("0.0.0.0", 0).start()
    monkeypatch.setenv("IPC_FRAMEWORK_INSECURE", "1")
    open_to_all = serve(host="0.0.0.0")
    open_to_all.start()
    assert Peer(open_to_all).welcome["payload"]["status"] == "connected"
    with pytest.raises(TypeError, match="no limit .frames."):
        FrameworkServer(port=0, limits={"frames": 1}).start()  # type: ignore[typeddict-unknown-key]
    with pytest.raises(ValueError, match="from 0 on"):
        FrameworkServer(port=0, limits={"request_timeout": -1.0}).start()
    wrong: Any
    for wrong in (70_000, -1, "8888"):
        with pytest.raises(ConnectionError, match="Failed to start server: port is a number from 0 to 65535"):
            FrameworkServer(port=wrong).start()
    monkeypatch.delenv("IPC_FRAMEWORK_INSECURE")
    with pytest.raises(ConnectionError, match=r"0\.0\.0\.0.*token"):
        FrameworkServer("", 0).start()
    counts: List[Any] = [{"workers": -1}, {"max_connections": 0}, {"max_connections": "x"}]
    for wrong in (*counts, {"limits": {"pending_max": -1}}):
        with pytest.raises((TypeError, ValueError), match="is a number from [01] on, not"):
            FrameworkServer(port=0, **wrong).start()
    for options in ({"token": ""}, {"tokens": {"app": ""}}):
        with pytest.raises(ValueError, match="the token is empty"):
            FrameworkServer(port=0, **options).start()  # type: ignore[arg-type]
    with pytest.raises(TypeError) as refused:
        FrameworkServer(port=0, token=b"secret").start()  # type: ignore[arg-type]
    assert "token is a string" in str(refused.value) and "secret" not in str(refused.value)
    with pytest.raises(TypeError, match="an id is a string"):
        FrameworkServer(port=0).create_application(None)  # type: ignore[arg-type]


def test_why_a_payload_cannot_be_sent_is_said(serve: Serve) -> None:
    server = serve()
    peer = first_peer(server)
    connection = server.connection_manager.get_connection("me")
    circle: List[Any] = []
    circle.append(circle)
    deep: List[Any] = []
    for _ in range(100_000):
        deep = [deep]
    cases = ((float("inf"), "send None"), (circle, r"^payload\[0\] contains itself"), (deep, "flatten it"))
    for payload, why in cases:
        with pytest.raises(ValueError, match=why):
            connection.send(Message("", "app", "c", MessageType.NOTIFICATION, payload, 0))
    peer.fence()


def test_tokens_limits_and_unix_sockets(serve: Serve, tmp_path: Any) -> None:
    path = tmp_path / "ipc.sock"
    server = serve(
        unix=path, tokens={"app": "secret"}, limits={"frame_bytes_max": 100_000, "request_timeout": 0.05}, spin=0.0
    )
    server.create_application("app").create_channel("void").set_handler(MessageType.REQUEST, lambda message: None)
    server.start()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Peer(server).welcome["payload"]["code"] == "auth_failed"
    peer = Peer(server, token="secret")
    assert peer.ask("void")["code"] == "timeout"
    large = Message("", "app", "c", MessageType.NOTIFICATION, "x" * 100_000, 0)
    with pytest.raises(ValueError, match="frame_bytes_max"):
        server.send_to_connection(server.connection_manager.get_connection("me"), large)
    with pytest.raises(ValueError, match="256 bytes"):
        server.create_application("x" * 300)
    server.stop()
    assert not path.exists()


def test_payloads_are_what_json_makes_of_them(serve: Serve) -> None:
    server = serve()

    @server.create_application("app").create_channel("echo").serve
    def back(request: Message) -> Any:
        return request.payload

    peer = first_peer(server)
    texts = ("\ud800 half", "é\x00\U0001f40d", "x" * 70_000)
    for payload in (None, True, 0, -1.5, 10**300, {"a": {"b": [[], {}]}}, *texts):
        assert peer.ask("echo", payload) == payload
    peer.send("request", "echo", 0)
    peer.receive()
    digits = b'{"message_id":"1","app_id":"app","channel_id":"echo","message_type":"request","timestamp":1,"payload":'
    body = digits + b"9" * 5_000 + b"}"
    peer.socket.sendall(len(body).to_bytes(4, "big") + body)
    answer = peer.receive()["payload"]
    assert answer["code"] == "handler_failed" and "could not be made" in answer["error"], "Python's own limit"


def test_what_the_published_server_prints_can_be_had(
    serve: Serve, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    quiet = serve()
    quiet.start()
    Peer(quiet).fence()
    quiet.stop()
    assert capsys.readouterr().out == ""
    logger = logging.getLogger("ipc_framework")
    before = (list(logger.handlers), logger.level, logger.propagate)
    try:
        loud = serve(verbose=True)
        loud.start()
        peer = Peer(loud)
        peer.fence()
        peer.close()
        eventually("its end", lambda: not loud.client_sockets)
        loud.stop()
        assert capsys.readouterr().out.splitlines() == [
            f"IPC Server started on localhost:{loud.port}",
            "Client me connected to application app",
            "Client me disconnected",
            "IPC Server stopped",
        ]
    finally:
        logger.handlers, logger.level, logger.propagate = before


def test_slow_handlers_run_beside_one_another(serve: Serve) -> None:
    server = serve(workers=2)
    together = threading.Barrier(2, timeout=STEP_SECONDS_MAX)

    @server.create_application("app").create_channel("meet").serve
    def meet(request: Message) -> str:
        together.wait()
        return threading.current_thread().name

    peer = first_peer(server)
    ids = [peer.send("request", "meet", None) for _ in range(2)]
    peer.fence()
    answers = [peer.receive() for _ in ids]
    assert {answer["payload"] for answer in answers} == {"ipc-worker-0", "ipc-worker-1"}
