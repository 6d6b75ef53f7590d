"""A server that goes away, stands still, and comes back."""

import signal
import threading
import time

import pytest
from peers import PublishedServer, RustServer, STEP_SECONDS_MAX, eventually, free_port

from ipc_framework import FrameworkClient
from ipc_framework.exceptions import AuthenticationError, ConnectionError

QUICK = (0.01, 0.1)


@pytest.fixture(params=[RustServer, PublishedServer])
def port_and_servers(request):
    """A port, and a function that starts a server there, as often as it is called."""
    port, started = free_port(), []

    def start():
        started.append(request.param(port=port))
        return started[-1]

    yield port, start
    for server in started:
        server.kill()


def client_of(port, **options):
    client = FrameworkClient("bench", "127.0.0.1", port, **{"reconnect": QUICK, **options})
    assert client.connect()
    return client


def test_a_killed_server_that_comes_back_finds_everything_restored(port_and_servers, caplog):
    port, start = port_and_servers
    server = start()
    seen, events = [], []
    with client_of(port) as client:
        client.on_event(events.append)
        client.subscribe("news", lambda message: seen.append(message.payload))
        client.publish("news", "before")
        eventually("it has subscribed", lambda: seen == ["before"])
        server.kill()
        eventually("the loss is seen", lambda: not client.connected)
        # Waits for the next connection, behind what is to be restored.
        client.publish("news", "while it was away")
        start()
        eventually("it is back", lambda: client.connected)
        eventually("what waited came", lambda: seen[1:] == ["while it was away"])
        client.publish("news", "after")
        eventually("so did the next", lambda: seen[1:] == ["while it was away", "after"])
        names = [event.name for event in events]
        # There is no history, and so a gap.
        assert names[0] == "disconnected" and names[-2:] == ["connected", "gap"] and "closed" not in names
        assert events[0].error.code == "lost"
        assert "Connection to server lost (0 requests" in caplog.text


def test_what_is_served_is_served_again():
    port = free_port()
    server = RustServer(port=port)
    with client_of(port) as worker, client_of(port) as client:
        worker.serve("double", lambda message: 2 * message.payload)
        assert client.send_request("double", 4).payload == 8
        server.kill()
        eventually("both see the loss", lambda: not worker.connected and not client.connected)
        server = RustServer(port=port)
        eventually("both are back", lambda: worker.connected and client.connected)
        eventually("it answers again", lambda: client.send_request("double", 21).payload == 42)
    server.stop()


def test_a_request_in_flight_fails_at_once_and_says_that_it_may_have_been_executed():
    server = RustServer()
    with FrameworkClient("bench", **server.arguments, reconnect=QUICK) as client:
        taken, released = threading.Event(), threading.Event()
        client.serve("hold", lambda message: (taken.set(), released.wait(STEP_SECONDS_MAX)))
        errors = []

        def ask():
            try:
                client.send_request("hold", 0, timeout=STEP_SECONDS_MAX)
            except ConnectionError as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        callbacks = []
        client.send_request_async("hold", 0, callbacks.append, on_error=errors.append)
        assert taken.wait(STEP_SECONDS_MAX)
        server.kill()
        asking.join(STEP_SECONDS_MAX)
        eventually("both are told", lambda: len(errors) == 2)
        assert [(error.code, error.may_be_executed) for error in errors] == [("lost", True)] * 2
        assert callbacks == [] and client.response_handlers == {}
        pending = lambda: client.get_connection_info()["pending_requests"]
        eventually("none is pending", lambda: pending() == 0)
        released.set()


def test_without_reconnect_the_first_loss_is_the_end_and_connect_begins_anew():
    port = free_port()
    server = RustServer(port=port)
    client = client_of(port, reconnect=False)
    server.kill()
    assert client.wait(STEP_SECONDS_MAX), "the end was not told"
    assert client.connected is False and client.last_error.code == "lost"
    with pytest.raises(ConnectionError):
        client.publish("news", 1)
    assert client.connect() is False
    server = RustServer(port=port)
    assert client.connect() is True
    assert client.send_request("echo", 1).payload == 1
    client.disconnect()
    server.stop()


def test_connect_waits_for_a_client_that_is_on_its_way_back():
    port = free_port()
    server = RustServer(port=port)
    client = client_of(port, connection_timeout=STEP_SECONDS_MAX)
    server.kill()
    eventually("the loss is seen", lambda: not client.connected)
    later = threading.Timer(0.3, lambda: started.append(RustServer(port=port)))
    started = []
    later.start()
    assert client.connect() is True
    assert client.send_request("echo", 1).payload == 1
    client.disconnect()
    later.join()
    started[0].stop()


def test_what_waits_for_a_server_is_bounded():
    port = free_port()
    server = RustServer(port=port)
    client = client_of(port, queue_bytes_max=100_000, connection_timeout=1000)
    server.kill()
    eventually("the loss is seen", lambda: not client.connected)
    with pytest.raises(ConnectionError) as refused:
        for _ in range(1000):
            client.publish("news", "x" * 1000)
    assert refused.value.code == "queue_full"
    assert 100_000 <= client.get_connection_info()["waiting_bytes"] < 110_000
    begin = time.monotonic()
    client.disconnect()
    # Without a server there is nothing to wait for, whatever `connection_timeout` is.
    assert time.monotonic() - begin < STEP_SECONDS_MAX


def test_a_server_that_stands_still_is_found_dead_and_left():
    server = RustServer()
    with FrameworkClient("bench", **server.arguments, reconnect=QUICK, heartbeat=1.0) as client:
        assert client.send_request("echo", 1).payload == 1
        # Only a server that has answered a heartbeat is expected to answer the next.
        time.sleep(3.0)
        server.signal(signal.SIGSTOP)
        eventually("it is found dead", lambda: not client.connected)
        server.signal(signal.SIGCONT)
        eventually("it is back", lambda: client.connected)
        assert client.send_request("echo", 2, timeout=STEP_SECONDS_MAX).payload == 2
    server.stop()


def test_a_timeout_at_a_server_that_stands_still_leaves_nothing_pending():
    server = RustServer()
    with FrameworkClient("bench", **server.arguments, heartbeat=None) as client:
        server.signal(signal.SIGSTOP)
        assert [client.send_request("echo", number, timeout=0.05) for number in range(20)] == [None] * 20
        errors = []
        client.send_request_async("echo", 1, print, timeout=0.05, on_error=errors.append)
        eventually("the callback's time is over too", lambda: [error.code for error in errors] == ["timeout"])
        # The callback is called before the request is counted out.
        eventually("nothing is pending", lambda: client.get_connection_info()["pending_requests"] == 0)
        server.signal(signal.SIGCONT)
        # The late answers are nobody's, and the next one is its own.
        assert client.send_request("echo", "next", timeout=STEP_SECONDS_MAX).payload == "next"
        assert client.pending_responses == {}
    server.stop()


def test_a_draining_server_is_left_and_every_request_knows_what_became_of_it():
    port = free_port()
    servers = [RustServer(port=port)]
    answers, faults, ended = [], [], threading.Event()
    with client_of(port) as client:

        def ask():
            number = 0
            while not ended.is_set():
                number += 1
                try:
                    answer = client.send_request("echo", number, timeout=STEP_SECONDS_MAX)
                    answers.append(answer.payload == number)
                except ConnectionError as error:
                    faults.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        for _ in range(3):
            count = len(answers)
            eventually("it is busy", lambda: len(answers) > count + 20)
            servers[-1].stop()
            servers.append(RustServer(port=port))
        count = len(answers)
        eventually("it goes on", lambda: len(answers) > count + 20)
        ended.set()
        asking.join(STEP_SECONDS_MAX)
        assert all(answers)
        # One that was on its way when the server closed cannot know.
        assert len(faults) <= 3 and all(fault.code == "lost" and fault.may_be_executed for fault in faults)
    servers[-1].stop()


def test_a_token(tmp_path):
    server = RustServer(IPC_TOKEN="secret")
    wrong = FrameworkClient("bench", **server.arguments, token="wrong")
    assert wrong.connect() is False
    assert isinstance(wrong.last_error, AuthenticationError) and wrong.last_error.code == "auth_failed"
    with FrameworkClient("bench", **server.arguments, token="secret") as client:
        assert client.send_request("echo", 1).payload == 1
    server.stop()


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "ipc.sock")
    server = RustServer("--unix", path)
    with FrameworkClient("bench", unix=path) as client:
        assert client.send_request("echo", 1).payload == 1
    server.stop()


def test_one_that_takes_its_place_ends_it_for_good():
    server = RustServer()
    first = FrameworkClient("bench", **server.arguments, connection_id="the one")
    second = FrameworkClient("bench", **server.arguments, connection_id="the one")
    assert first.connect() and second.connect()
    assert first.wait(STEP_SECONDS_MAX)
    assert first.last_error.code == "taken_over"
    assert second.send_request("echo", 1).payload == 1
    second.disconnect()
    server.stop()
