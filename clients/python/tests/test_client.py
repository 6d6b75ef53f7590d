"""`FrameworkClient` as programs of the published package use it, against all three servers."""

import concurrent.futures
import contextlib
import dataclasses
import gc
import logging
import os
import threading
import time
import uuid
import weakref

import pytest
from peers import BINARY, OwnServer, Process, PublishedServer, RustServer, STEP_SECONDS_MAX, eventually, run_program

import ipc_framework
from ipc_framework import FrameworkClient, Message, MessageType
from ipc_framework.exceptions import ConnectionError, SerializationError

SERVERS = {"rust": RustServer, "published": PublishedServer, "own": OwnServer}


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    started = SERVERS[request.param]()
    yield started
    started.stop()


@contextlib.contextmanager
def connected(server, app="bench", cls=FrameworkClient, **options):
    with cls(app, **server.arguments, **options) as client:
        yield client


def ask(client, channel, **payload):
    """Servers of the published package find out by the payload whom to answer."""
    payload["connection_id"] = client.connection_id
    answer = client.send_request(channel, payload, timeout=STEP_SECONDS_MAX)
    assert answer is not None
    return answer


def settled(client, server, channel):
    """Returns when the server has this client's subscription to the channel."""
    if isinstance(server, RustServer):
        assert client.flush(STEP_SECONDS_MAX)
        return
    arrived = threading.Event()
    client.create_channel_handler(channel, lambda message: arrived.set())
    client.publish(channel, "settled")
    assert arrived.wait(STEP_SECONDS_MAX)
    client.remove_channel_handler(channel)


def test_request(server):
    with connected(server) as client:
        answer = ask(client, "echo", number=7, text="żółw \U0001f422", nested=[1, 2.5, None, {"a": True}])
        assert isinstance(answer, Message)
        assert answer.message_type is MessageType.RESPONSE
        assert (answer.app_id, answer.channel_id) == ("bench", "echo")
        assert answer.payload["text"] == "żółw \U0001f422" and answer.payload["nested"] == [1, 2.5, None, {"a": True}]
        assert answer.timestamp == pytest.approx(time.time(), abs=3600)
        uuid.UUID(answer.reply_to)


def test_a_request_without_an_answer_is_none_in_time(server):
    with connected(server) as client:
        if isinstance(server, RustServer):
            # Somebody who serves and does not answer.
            client.serve("silent", lambda message: time.sleep(1.0))
        begin = time.monotonic()
        assert client.send_request("silent", {}, timeout=0.2) is None
        assert time.monotonic() - begin >= 0.2
        # The client's own thread forgets it when it notices that its time is up.
        while client.get_connection_info()["pending_requests"]:
            assert time.monotonic() - begin < 10
            time.sleep(0.01)


def test_callbacks_are_called_once_with_their_own_answers(server):
    answers = {}
    with connected(server) as client:
        for number in range(100):
            payload = {"number": number, "connection_id": client.connection_id}
            keep = lambda message: answers.setdefault(message.reply_to, []).append(message)
            message_id = client.send_request_async("echo", payload, keep)
            answers.setdefault(message_id, []).append(number)
        eventually("all answers are there", lambda: all(len(pair) == 2 for pair in answers.values()))
        assert len(answers) == 100
        for pair in answers.values():
            number, message = sorted(pair, key=lambda one: isinstance(one, Message))
            assert message.payload["number"] == number
        assert client.response_handlers == {}


def test_a_plain_request_leaves_its_answer_in_pending_responses(server):
    with connected(server) as client:
        message_id = client.request("echo", {"number": 5, "connection_id": client.connection_id})
        eventually("the answer is there", lambda: message_id in client.pending_responses)
        assert client.pending_responses.pop(message_id).payload["number"] == 5


def test_publications_reach_subscribers_in_order(server):
    seen = []
    with connected(server) as subscriber, connected(server) as publisher:
        assert subscriber.subscribe("news") is True
        settled(subscriber, server, "news")
        subscriber.create_channel_handler("news", lambda message: seen.append(message.payload))
        for number in range(200):
            uuid.UUID(publisher.publish("news", number))
        eventually("all are there", lambda: len(seen) >= 200)
        assert seen == list(range(200))
        assert subscriber.get_connection_info()["subscribed_channels"] == ["news"]

        assert subscriber.unsubscribe("news") is True
        ask(subscriber, "echo")
        publisher.publish("news", "unheard")
        ask(publisher, "echo")
        ask(subscriber, "echo")
        assert seen == list(range(200))


def test_notifications(server):
    with connected(server) as client:
        if isinstance(server, RustServer):
            # The demo handles none on this channel, so a worker does what the other servers do.
            noted = []
            note = lambda message: noted if isinstance(message.payload, dict) else noted.append(message.payload)
            client.serve("notes", note)
        client.notify("notes", "noted " + client.connection_id)
        assert "noted " + client.connection_id in ask(client, "notes").payload


def test_wait_for_message_leaves_the_handler_alone(server):
    handled = []
    with connected(server) as client:
        client.subscribe("waited")
        settled(client, server, "waited")
        client.create_channel_handler("waited", lambda message: handled.append(message.payload))
        threading.Timer(1.0, lambda: client.publish("waited", "here")).start()
        assert client.wait_for_message("waited", timeout=STEP_SECONDS_MAX).payload == "here"
        assert client.wait_for_message("waited", timeout=0.05) is None
        eventually("the handler had it too", lambda: handled == ["here"])


def test_what_a_subclass_overrides_is_called(server):
    class Watching(FrameworkClient):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.sent, self.handled = [], []

        def _send_message(self, message):
            self.sent.append((message.message_type, message.channel_id))
            return super()._send_message(message)

        def handle_message(self, message):
            self.handled.append(message.payload)
            super().handle_message(message)

    seen = []
    with connected(server, cls=Watching) as client:
        client.subscribe("watched", lambda message: seen.append(message.payload))
        client.publish("watched", 1)
        eventually("it came back", lambda: seen == [1])
        assert client.handled == [1]
        ask(client, "echo")
        assert client.sent == [
            (MessageType.SUBSCRIBE, "watched"),
            (MessageType.PUBLISH, "watched"),
            (MessageType.REQUEST, "echo"),
        ]


@pytest.mark.parametrize("replaced", ["_send_message", "send_message"])
def test_what_a_program_puts_into_a_client_is_called(rust, replaced):
    sent = []
    with connected(rust) as client:
        own = getattr(client, replaced)
        setattr(client, replaced, lambda *arguments: sent.append(arguments[0]) or own(*arguments))
        client.publish("watched", 1)
        assert client.send_request("echo", 2).payload == 2
        client.notify("watched", 3)
    assert len(sent) == 3


def test_publications_in_a_row_arrive_in_order_among_others(rust):
    seen = []
    with connected(rust) as subscriber, connected(rust) as publisher:
        subscriber.subscribe("row", lambda message: seen.append((message.payload, message.message_id)))
        assert subscriber.flush()
        sent = []
        for number in range(6_000):
            sent.append((number, publisher.publish("row", number)))
            if number % 1_000 == 999:
                assert publisher.send_request("echo", number).payload == number
        # The last ones leave although nothing is sent behind them.
        for number in range(50):
            sent.append((number, publisher.publish("row", number)))
        eventually("all are there", lambda: len(seen) >= len(sent))
    assert seen == sent


def test_a_subclass_that_sends_requests_its_own_way_gets_its_answers(server):
    class Late(FrameworkClient):
        def _send_message(self, message):
            # As one that sends everything by a thread of its own.
            sender = threading.Thread(target=super()._send_message, args=(message,))
            sender.start()
            sender.join()
            return message.message_id

    with connected(server, cls=Late) as client:
        assert ask(client, "echo", number=3).payload["number"] == 3
        answers = []
        payload = {"number": 4, "connection_id": client.connection_id}
        client.send_request_async("echo", payload, answers.append)
        eventually("the callback is called", lambda: [answer.payload["number"] for answer in answers] == [4])


def test_a_handler_may_ask_and_a_failing_one_is_logged(server, caplog):
    seen = []
    with connected(server) as client, caplog.at_level(logging.ERROR):

        def handler(message):
            if message.payload == "fail":
                raise RuntimeError("on purpose")
            seen.append(ask(client, "echo", number=message.payload).payload["number"])

        client.subscribe("asking", handler)
        client.publish("asking", "fail")
        client.publish("asking", 8)
        eventually("the later one was handled", lambda: seen == [8])
        assert "on purpose" in caplog.text


def test_connecting(server, capsys):
    client = FrameworkClient("bench", **server.arguments)
    assert client.connected is False
    with pytest.raises(ConnectionError, match="Not connected"):
        client.publish("news", 1)
    with pytest.raises(ConnectionError):
        client.send_request("echo", {})
    assert client.connect() is True and client.connect() is True
    assert client.connected is True
    info = client.get_connection_info()
    assert info["app_id"] == "bench" and info["connection_id"] == client.connection_id
    assert info["connected"] is True and info["port"] == server.port
    client.disconnect()
    client.disconnect()
    assert client.connected is False
    with pytest.raises(ConnectionError):
        client.notify("news", 1)
    # The same object again, as the same connection.
    assert client.connect() is True
    assert ask(client, "echo", number=1).payload["number"] == 1
    client.disconnect()
    assert capsys.readouterr().out == ""


def test_its_socket_can_be_looked_at(rust):
    client = FrameworkClient("bench", **rust.arguments)
    assert client.socket is None
    with client, client.socket as duplicate:
        assert duplicate.getpeername() == ("127.0.0.1", rust.port)
        assert client.send_request("echo", 1).payload == 1
    assert client.socket is None


def test_a_connection_keeps_its_client_alive_and_a_lost_one_does_not():
    server = RustServer()
    seen = []

    def listen():
        client = FrameworkClient("bench", **server.arguments)
        assert client.connect()
        client.subscribe("news", lambda message: seen.append(message.payload))
        assert client.flush(STEP_SECONDS_MAX)
        return weakref.ref(client)

    forgotten = listen()
    with connected(server) as publisher:
        gc.collect()
        publisher.publish("news", 1)
        eventually("the forgotten one hears it", lambda: seen == [1])
    server.kill()
    eventually("it does not try to come back for ever", lambda: gc.collect() is None or forgotten() is None)


def test_verbose_prints_what_the_published_client_prints(rust):
    code = f"""
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port={rust.port}, connection_id="c")
client.connect()
client.disconnect()
"""
    printed = "Connected to IPC server as bench:c\nDisconnected from IPC server\n"
    for told, code in (("", code), (printed, code.replace('"c"', '"c", verbose=True'))):
        ended = run_program(code)
        assert (ended.stdout, ended.stderr) == (told, "")
    variable = {**os.environ, "IPC_FRAMEWORK_VERBOSE": "1"}
    code = code.replace(", verbose=True", "")
    assert run_program(code, env=variable).stdout == printed


def test_where_nothing_listens_connect_is_false_and_says_why(caplog):
    client = FrameworkClient("bench", port=1, connection_timeout=5)
    assert client.connect() is False
    assert client.last_error.code == "unreachable" and "ipc serve" in str(client.last_error)
    assert "ipc serve" in caplog.text
    for port in (70_000, 0, "8888"):
        client.port = port
        assert client.connect() is False
        assert f"port is a number from 1 to 65535, not {port!r}" in str(client.last_error)
    with pytest.raises(ConnectionError), client:
        pass


def test_ping(server):
    with connected(server) as client:
        assert client.ping(timeout=0.3 if isinstance(server, PublishedServer) else STEP_SECONDS_MAX) is not isinstance(
            server, PublishedServer
        )


def test_errors_are_answers(rust):
    with connected(rust) as client:
        answer = client.send_request("nobody", {})
        assert answer.payload["status"] == "error" and answer.payload["code"] == "no_handler"
        answers = []
        client.send_request_async("nobody", {}, answers.append)
        eventually("it is answered", lambda: [answer.payload["code"] for answer in answers] == ["no_handler"])
        message_id = client.request("nobody", {})
        eventually("it is kept", lambda: message_id in client.pending_responses)
        assert client.pending_responses[message_id].payload["code"] == "no_handler"


def test_a_subscription_that_asks_for_an_answer_gets_it(rust):
    with connected(rust) as client:
        payload = {"connection_id": client.connection_id, "ack": True}
        message_id = client.send_message("acked", MessageType.SUBSCRIBE, payload)
        eventually("it is answered", lambda: message_id in client.pending_responses)
        assert client.pending_responses[message_id].payload == {"status": "subscribed"}


def test_what_is_no_json_is_refused_and_nothing_is_sent(rust):
    @dataclasses.dataclass
    class Point:
        x: int

    with connected(rust) as client:
        for bad in (object(), {1, 2}, float("nan"), 1j):
            with pytest.raises(SerializationError):
                client.send_request("echo", bad)
        assert client.get_connection_info()["pending_requests"] == 0
        assert client.response_handlers == {}
        # The published package takes them.
        assert client.send_request("echo", {"point": Point(3)}).payload == {"point": {"x": 3}}


def test_large_payloads_and_too_large_ones(server):
    large = {"text": "żółw" * 500_000}
    # A server that is not optimised may take longer for it than between two heartbeats.
    with connected(server, heartbeat=None) as client:
        assert ask(client, "echo", **large).payload["text"] == large["text"]
    with connected(server, frame_bytes_max=1_000_000) as client:
        for send in (client.send_request, client.publish):
            with pytest.raises(SerializationError) as refused:
                send("echo", large)
            assert refused.value.code == "too_large"
        assert ask(client, "echo", number=1).payload["number"] == 1


def test_numbers_that_other_languages_cannot_hold(rust):
    with connected(rust) as client:
        big = 7**300
        assert client.send_request("echo", big).payload == big
        assert client.send_request("echo", "\ud800").payload == "\ud800"


def test_a_number_too_long_for_python_is_an_error_for_its_own_request_alone(rust):
    # Above `sys.get_int_max_str_digits`, which the decoder obeys; no other client minds.
    worker = Process(BINARY, "worker", "long", "--port", rust.port, "--app", "bench", "--", "printf", "9" * 5000)
    with connected(rust) as client:
        eventually("it serves", lambda: "long" in str(client.send_request("system", {"action": "list_services"})))
        with pytest.raises(SerializationError) as refused:
            client.send_request("long", 0, timeout=STEP_SECONDS_MAX)
        assert refused.value.code == "undecodable"
        errors = []
        client.send_request_async("long", 0, print, on_error=errors.append)
        eventually("the callback's error is told", lambda: [error.code for error in errors] == ["undecodable"])
        assert client.send_request("echo", 1).payload == 1
    worker.kill()


def test_eight_threads_on_one_client(rust):
    faults = []

    def run(client, name):
        for number in range(1000):
            answer = client.send_request("echo", [name, number], timeout=STEP_SECONDS_MAX)
            if answer is None or answer.payload != [name, number]:
                faults.append((name, number, answer))

    with connected(rust) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: run(client, name), range(8)))
        assert faults == []
        assert client.get_connection_info()["pending_requests"] == 0


def test_ten_thousand_requests_leave_nothing_behind(rust):
    with connected(rust) as client:

        def ask_many(count):
            for number in range(count):
                assert client.send_request("echo", {"number": number}).payload == {"number": number}

        ask_many(500)
        gc.collect()
        objects, kilobytes = len(gc.get_objects()), resident_kilobytes()
        ask_many(10_000)
        gc.collect()
        assert len(gc.get_objects()) - objects < 200
        assert resident_kilobytes() - kilobytes < 2048
        info = client.get_connection_info()
        assert info["pending_requests"] == 0 and info["waiting_bytes"] == 0
        assert client.pending_responses == {} and client.response_handlers == {}


def resident_kilobytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_unclaimed_answers_are_bounded(rust, monkeypatch):
    monkeypatch.setattr("ipc_framework._dispatch.UNCLAIMED_MAX", 100)
    with connected(rust) as client:
        for _ in range(3):
            last = [client.request("echo", 0) for _ in range(90)][-1]
            eventually("the last one is there", lambda: last in client.pending_responses)
        assert len(client.pending_responses) == 100


def test_a_slow_handler_delays_no_answers(rust):
    released = threading.Event()
    with connected(rust) as client:
        client.subscribe("slow", lambda message: released.wait(STEP_SECONDS_MAX))
        client.publish("slow", 1)
        for number in range(50):
            assert client.send_request("echo", number).payload == number
        released.set()


def test_what_came_before_the_end_is_handled(rust):
    seen = []
    with connected(rust) as client:
        client.subscribe("before", lambda message: seen.append(message.payload))
        for number in range(1000):
            client.publish("before", number)
        client.flush(STEP_SECONDS_MAX)
    assert seen == list(range(1000))


def test_a_handler_that_disconnects_is_called_no_more(rust):
    seen, published = [], threading.Event()
    with connected(rust) as client:

        def handler(message):
            seen.append(message.payload)
            if message.payload == 1:
                client.disconnect()
            assert published.wait(STEP_SECONDS_MAX)

        client.subscribe("end", handler)
        for number in range(100):
            client.publish("end", number)
        client.flush(STEP_SECONDS_MAX)
        published.set()
        eventually("it is closed", lambda: not client.connected)
        client.receive_thread.join(STEP_SECONDS_MAX)
    assert seen == [0, 1]


def test_the_version_is_the_published_one():
    assert ipc_framework.__version__ == "1.1.2"
