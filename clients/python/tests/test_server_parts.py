"""What programs set up, override and answer by hand: the small print of the server."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Callable, List

import pytest

from ipc_framework import Channel, FrameworkServer, Message, MessageType
from peers import STEP_SECONDS_MAX, eventually
from wire import Peer, first_peer

Serve = Callable[..., FrameworkServer]


def note(payload: Any, app_id: str = "app", channel_id: str = "c") -> Message:
    return Message("", app_id, channel_id, MessageType.NOTIFICATION, payload, 0)


def response(to: str, payload: Any, app_id: str = "app") -> Message:
    """Built by hand: it says what it answers, and nothing else."""
    return Message("", app_id, "later", MessageType.RESPONSE, payload, 0, to)


def raw_request(peer: Peer, id: str, channel_id: str = "later") -> None:
    body = Message(id, peer.app_id, channel_id, MessageType.REQUEST, peer.connection_id, 1).to_json().encode()
    peer.socket.sendall(len(body).to_bytes(4, "big") + body)


def test_subscribers_named_before_the_start(serve: Serve) -> None:
    server = serve()
    channel = server.create_application("app").create_channel("c")
    for id in ("a", "a", "b"):
        channel.add_subscriber(id)
    channel.remove_subscriber("b")
    channel.remove_subscriber("never there")
    assert channel.get_subscribers() == ["a"]
    server.start()
    a, b = Peer(server, connection_id="a"), Peer(server, connection_id="b")
    assert channel.get_subscribers() == ["a"]
    server._handle_publish(note(1), channel)
    assert a.receive()["payload"] == 1
    b.fence()
    channel.remove_subscriber("a")
    a.close()
    server.stop()
    server.start()
    assert channel.get_subscribers() == [], "unsubscribed, also when it starts anew"


def test_the_last_handler_counts_and_outlives_the_server(serve: Serve) -> None:
    server = serve()
    peer = first_peer(server)
    peer.subscribe("c")
    application = server.get_application("app")
    assert application is not None
    channel = application.get_channel("c")
    assert channel is not None
    channel.serve(lambda request: "served")
    assert peer.ask("c") == "served"

    asked: List[Message] = []

    def by_hand(message: Message) -> str:
        asked.append(message)
        return "for nobody"

    channel.set_handler(MessageType.REQUEST, by_hand)
    id = peer.send("request", "c", None)
    peer.fence()
    server.send_to_connection(None, asked[0].create_response("by hand"))
    answer = peer.receive()
    assert (answer["reply_to"], answer["payload"]) == (id, "by hand")
    channel.set_handler(MessageType.REQUEST, lambda m: server.send_to_connection(None, m.create_response("by hand")))
    peer.fence()
    peer.close()
    server.stop()
    server.start()
    assert Peer(server).ask("c") == "by hand"
    server.stop()
    mine = server.get_application("app")
    assert mine is not None and mine.remove_channel("c") is True and mine.remove_channel("c") is False
    server.start()
    assert Peer(server).ask("c")["code"] == "no_handler"


def test_what_a_handler_returns_for_nobody_is_said_once(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ipc_framework")
    server = serve()
    app = server.create_application("app")
    app.create_channel("c").set_handler(MessageType.NOTIFICATION, lambda message: "an answer?")
    app.create_channel("d").set_handler(MessageType.PUBLISH, lambda message: None)
    assert "is never called" in caplog.text
    peer = first_peer(server)
    for _ in range(3):
        peer.send("notification", "c", 1)
    peer.fence()
    assert caplog.text.count("returned a value, which is ignored") == 1


def test_subscriptions_may_be_overridden_alone(serve: Serve) -> None:
    class Noted(FrameworkServer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.seen: List[str] = []

        def _handle_subscribe(self, message: Message, channel: Channel) -> bool:
            self.seen.append(f"+{channel.channel_id}")
            return super()._handle_subscribe(message, channel)

        def _handle_unsubscribe(self, message: Message, channel: Channel) -> bool:
            self.seen.append(f"-{channel.channel_id}")
            return super()._handle_unsubscribe(message, channel)

    server = serve(Noted)
    peer = first_peer(server)
    peer.subscribe("news")
    peer.send("unsubscribe", "news", {"connection_id": "me"})
    peer.fence()
    assert server.seen == ["+news", "-news"]  # type: ignore[attr-defined]


def test_an_override_of_sending_sees_broadcasts_and_channels_of_ones_own(serve: Serve) -> None:
    class Logged(FrameworkServer):
        sent: List[str] = []

        def send_to_connection(self, connection: Any, message: Message) -> None:
            self.sent.append(connection.connection_id)
            super().send_to_connection(connection, message)

    server = serve(Logged)
    server.start()
    peer, other = Peer(server), Peer(server, "another", "other")
    server.broadcast_to_application("app", note("to all"))
    assert peer.receive()["payload"] == "to all" and Logged.sent == ["me"]
    other.fence()
    plain = serve()
    plain.start()
    peer, other = Peer(plain), Peer(plain, connection_id="other")
    own = Channel("own", "app")
    own.add_subscriber("me")
    own.add_subscriber("nobody")
    assert plain._handle_publish(note("own"), own)
    assert peer.receive()["payload"] == "own"
    other.fence()


def test_one_id_in_two_applications(serve: Serve) -> None:
    server = serve()
    asked: List[Message] = []
    apps = [server.create_application(name) for name in ("one", "two")]
    for app in apps:
        app.create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    server.start()
    news = apps[0].create_channel("news")
    news.add_subscriber("me")
    two = Peer(server, "two")
    assert news.get_subscribers() == ["me"], "still waited for: this is another"
    one = Peer(server, "one")
    two_again = apps[1].create_channel("news")
    two_again.add_subscriber("me")
    server._handle_publish(note("first", "one", "news"), news)
    assert one.receive()["payload"] == "first"
    server._handle_publish(note("second", "two", "news"), two_again)
    assert two.receive()["payload"] == "second"
    raw_request(one, "same")
    raw_request(two, "same")
    eventually("the requests", lambda: len(asked) == 2)
    server.send_to_connection(None, response("same", "for two", "two"))
    assert two.receive()["payload"] == "for two"
    server.send_to_connection(None, response("same", "for one", "one"))
    assert one.receive()["payload"] == "for one"
    gone = asked[[message.app_id for message in asked].index("one")]
    one.close()
    eventually("the end of one", lambda: server.connection_manager.list_connections() == ["me"])
    eventually("the end of one", lambda: server.connection_manager.get_connections_for_app("one") == [])
    left = server.connection_manager.get_connection("me")
    assert left.app_id == "two" and left == server.connection_manager.get_connection("me")
    assert gone._origin.connection_id is None  # type: ignore[attr-defined]
    other = Peer(server, "two", "other")
    assert left != server.connection_manager.get_connection("other") and left != "me"
    assert len({left, server.connection_manager.get_connection("me")}) == 1
    other.fence()
    again = Peer(server, "one")
    two.close()
    eventually("the end of two", lambda: server.connection_manager.get_connections_for_app("two") == ["other"])
    assert server.connection_manager.get_connection("me").app_id == "one", "the older one has gone"
    again.fence()


def test_a_request_without_a_timeout_ends_with_its_requester(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(limits={"request_timeout": None})
    asked: List[Message] = []
    application = server.create_application("app")
    application.create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    application.create_channel("now").serve(lambda request: request.payload)
    server.start()
    gone, stays = Peer(server, connection_id="gone"), Peer(server, connection_id="stays")
    for count, peer in enumerate((gone, stays), 1):
        raw_request(peer, "same")
        eventually("the request", lambda: len(asked) == count)
    gone.close()
    eventually("its end", lambda: server.connection_manager.list_connections() == ["stays"])
    for at in range(200):
        assert stays.ask("now", at) == at
    # The oldest with this id is answered, and the first one is no longer waited for.
    server.send_to_connection(None, response("same", "for the one that stays"))
    assert stays.receive()["payload"] == "for the one that stays"
    server.send_to_connection(None, response("same", "too late"))
    assert "no request that waits" in caplog.text


def test_whom_a_response_reaches(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve()
    asked: List[Message] = []
    server.create_application("app").create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    server.start()
    peers = [Peer(server, connection_id=id) for id in ("a", "b")]
    a, b = peers
    for peer in peers:
        raw_request(peer, "same")
    eventually("the requests", lambda: len(asked) == 2)
    connections = {id: server.connection_manager.get_connection(id) for id in ("a", "b")}
    server.send_to_connection(connections["b"], response("same", "b's"))
    assert b.receive()["payload"] == "b's"
    server.send_to_connection(connections["a"], response("same", "a's"))
    assert a.receive()["payload"] == "a's"
    # All is answered: nobody waits for one more.
    server.send_to_connection(None, response("same", "too late"))
    assert "no request that waits" in caplog.text
    asked.clear()
    ids = [a.send("request", "later", 1), b.send("request", "later", 2)]
    eventually("the requests", lambda: len(asked) == 2)
    of_a = next(message for message in asked if message.message_id == ids[0])
    turned = of_a.create_response("turned")
    turned.reply_to = ids[1]
    server.send_to_connection(None, turned)
    assert b.receive()["payload"] == "turned"
    server.send_to_connection(connections["b"], of_a.create_response("a copy for another"))
    assert b.receive()["payload"] == "a copy for another"
    server.send_to_connection(None, of_a.create_response("the answer"))
    assert a.receive()["payload"] == "the answer"
    for peer in peers:
        peer.fence()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_kept_of_a_request_over_the_limit(
    serve: Serve, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(workers=workers, limits={"pending_per_connection_max": 1})
    asked: List[Message] = []
    server.create_application("app").create_channel("later").set_handler(MessageType.REQUEST, asked.append)
    peer = first_peer(server)
    first = peer.send("request", "later", 1)
    eventually("the request", lambda: len(asked) == 1)
    second = peer.send("request", "later", 2)
    refused = peer.receive()
    assert (refused["reply_to"], refused["payload"]["code"]) == (second, "limit_exceeded")
    server.send_to_connection(None, response(second, "too late"))
    assert "no request that waits" in caplog.text
    server.send_to_connection(None, response(first, "answered"))
    assert peer.receive()["payload"] == "answered"


def test_what_is_answered_stays_so_whatever_an_override_returns(serve: Serve) -> None:
    class Refuses(FrameworkServer):
        def route_message(self, message: Message) -> bool:
            super().route_message(message)
            return False

    server = serve(Refuses)
    server.create_application("app").create_channel("c").serve(lambda request: "served")
    peer = first_peer(server)
    assert peer.ask("c") == "served"
    assert peer.ask("nobody")["code"] == "no_handler"


def test_coroutines_that_never_end_are_cancelled(serve: Serve) -> None:
    server = serve(limits={"drain_timeout": 0.1, "idle_timeout": None})
    begun, cancelled = threading.Event(), threading.Event()

    @server.create_application("app").create_channel("c").serve
    async def never(request: Message) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    peer = first_peer(server)
    peer.send("request", "c", None)
    assert begun.wait(STEP_SECONDS_MAX)
    server.stop()
    assert cancelled.is_set()


def test_more_notifications_than_threads_can_take_are_refused(serve: Serve) -> None:
    server = serve(workers=1)
    begun, go_on = threading.Event(), threading.Event()
    count = [0]

    def slow(message: Message) -> None:
        begun.set()
        assert go_on.wait(STEP_SECONDS_MAX)
        count[0] += 1

    server.create_application("app").create_channel("c").set_handler(MessageType.NOTIFICATION, slow)
    peer = first_peer(server)
    body = note(None).to_json().encode()
    frame = len(body).to_bytes(4, "big") + body
    peer.socket.sendall(frame)
    assert begun.wait(STEP_SECONDS_MAX)
    peer.socket.sendall(frame * 65_536)
    peer.fence()
    peer.socket.sendall(frame)
    assert peer.receive()["payload"]["code"] == "handler_failed"
    go_on.set()
    eventually("those that waited", lambda: count[0] == 65_537)


def test_a_queue_that_is_full_answers_that(serve: Any) -> None:
    server = serve(workers=1, queue_max=2)
    taken, go = threading.Event(), threading.Event()

    def held(request: Any) -> Any:
        taken.set()
        assert go.wait(STEP_SECONDS_MAX)
        return request.payload

    server.create_application("app").create_channel("held").serve(held)
    server.start()
    peer = Peer(server)
    peer.send("request", "held", 0)
    assert taken.wait(STEP_SECONDS_MAX)
    for number in range(1, 5):
        peer.send("request", "held", number)
    assert [peer.receive()["payload"]["code"] for _ in range(2)] == ["limit_exceeded"] * 2
    go.set()
    assert [peer.receive()["payload"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError):
        serve(workers=1, queue_max=0).start()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_that_cannot_be_told_is_answered(serve: Serve, workers: int) -> None:
    class Untellable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("it has no text")

    def plain(message: Message) -> None:
        raise Untellable() if message.payload else ValueError("the file \udcff")

    async def coroutine(message: Message) -> None:
        plain(message)

    server = serve(workers=workers)
    app = server.create_application("app")
    app.create_channel("plain").serve(plain)
    app.create_channel("coroutine").serve(coroutine)
    peer = first_peer(server)
    for channel in ("plain", "coroutine"):
        assert "ValueError: the file \\udcff" in peer.ask(channel, 0)["error"]
        assert "Untellable, whose text cannot be had" in peer.ask(channel, 1)["error"]
    peer.close()
