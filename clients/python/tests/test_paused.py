"""Answers and messages that come in time are never lost to a timeout, when the process is stopped meanwhile (a paused
container, a debugger, a suspended laptop) or its event loop is blocked."""

import signal
import sys
import threading
import time

import pytest
from peers import Process, RustServer, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient, _dispatch

#: Seconds that each program waits at most, of which the process is stopped for more.
TIMEOUT = 1.0

BEGIN = """
import asyncio, sys, threading, time
from ipc_framework import FrameworkClient, MessageType, aio
app, port, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
client = FrameworkClient(app, port=port)
assert client.connect()
def show(message):
    print("answer", message and message.payload, flush=True)
"""
PROGRAMS = {
    "send_request": "show(client.send_request('held', 'x', timeout))",
    "send_request_async": """
done = threading.Event()
tell = lambda error: (print(error, flush=True), done.set())
client.send_request_async('held', 'x', lambda message: (show(message), done.set()), timeout, tell)
done.wait()
""",
    "a way of its own": """
class Own(FrameworkClient):
    def request(self, channel_id, data):
        # Sent by another thread, as far as the base class knows.
        sent = []
        thread = threading.Thread(target=lambda: sent.append(super(Own, self).request(channel_id, data)))
        thread.start(), thread.join()
        return sent[0]
own = Own(app, port=port)
assert own.connect()
show(own.send_request('held', 'x', timeout))
""",
    "wait_for_message": """
client.subscribe('news')
assert client.flush()
client.request('held', 'x')
show(client.wait_for_message('news', timeout))
""",
    "aio": """
async def main():
    async with aio.connect(app, port=port) as client:
        show(await client.request('held', 'x', timeout=timeout))
asyncio.run(main())
""",
    "aio, blocked": """
async def main():
    async with aio.connect(app, port=port) as client:
        asking = asyncio.create_task(client.request('held', 'x', timeout=timeout))
        await asyncio.sleep(0.05)
        time.sleep(2.5 * timeout)
        show(await asking)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_what_came_in_time_counts(rust, request, program):
    app = request.node.name
    taken, go = threading.Event(), threading.Event()
    with FrameworkClient(app, **rust.arguments) as worker:

        @worker.serve("held")
        def held(message):
            taken.set()
            assert go.wait(STEP_SECONDS_MAX)
            worker.publish("news", message.payload)
            return message.payload

        asking = Process(sys.executable, "-c", BEGIN + program, app, rust.port, TIMEOUT)
        try:
            assert taken.wait(STEP_SECONDS_MAX)
            asking.signal(signal.SIGSTOP)
            go.set()
            # The answer has left before the time is over, and the pause ends after that.
            assert worker.flush()
            time.sleep(1.5 * TIMEOUT)
            asking.signal(signal.SIGCONT)
            assert asking.wait() == 0, asking.output
            assert asking.output == "answer x\n"
        finally:
            asking.kill()


def test_a_wait_for_nothing_ends_in_time(rust, request):
    with FrameworkClient(request.node.name, **rust.arguments) as client:
        assert client.wait_for_message("silence", 0.05) is None
        begun, go = threading.Event(), threading.Event()
        client.subscribe("busy", lambda message: (begun.set(), go.wait(STEP_SECONDS_MAX)))
        assert client.flush()
        client.publish("busy", 1)
        assert begun.wait(STEP_SECONDS_MAX)
        assert client.wait_for_message("silence", 0.05) is None
        assert not go.is_set(), "it did not wait for the handler"
        go.set()


def test_a_wait_ends_with_its_client(rust, request):
    client = FrameworkClient(request.node.name, **rust.arguments)
    assert client.connect()
    heard = []
    waiting = threading.Thread(target=lambda: heard.append(client.wait_for_message("silence", 600)), daemon=True)
    waiting.start()
    eventually("it waits", lambda: client._dispatcher._waiting)
    assert client.close()
    waiting.join(STEP_SECONDS_MAX)
    assert heard == [None]


def test_nothing_is_awaited_from_a_client_that_has_ended(monkeypatch):
    monkeypatch.setattr(_dispatch, "CATCH_UP_SECONDS_MAX", 600)
    server = RustServer()
    client = FrameworkClient("bench", **server.arguments, reconnect=False)
    assert client.connect()
    server.stop()
    assert client.wait(STEP_SECONDS_MAX)
    heard = []
    waiting = threading.Thread(target=lambda: heard.append(client.wait_for_message("silence", 0.05)), daemon=True)
    waiting.start()
    waiting.join(STEP_SECONDS_MAX)
    assert heard == [None]
    client.close()
