"""Requests for which nobody waits any more, and the time that is left for one."""

import asyncio
import contextvars
import logging
import threading
import time

import pytest
from peers import PUBLISHED_PYTHON, Process, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient, FrameworkServer, Message, MessageType, aio
from ipc_framework.exceptions import TimeoutError


@pytest.fixture
def app(request):
    return request.node.name


@pytest.fixture(params=["worker", "server"])
def served(request, where, app, tmp_path):
    """Serves handlers on threads and loops: `put(channel, handler)`, and where clients find them."""
    if request.param == "worker":
        with FrameworkClient(app, **where) as worker:
            yield lambda channel, handler: worker.serve(channel, handler, concurrency=2), {"app_id": app, **where}
    else:
        path = str(tmp_path / "own.sock")
        server = FrameworkServer(port=0, workers=2, **({"unix": path, "host": None} if "unix" in where else {}))
        application = server.create_application(app)
        server.start()
        to = {"unix": path} if "unix" in where else {"host": "localhost", "port": server.port}
        yield lambda channel, handler: application.create_channel(channel).serve(handler), {"app_id": app, **to}
        server.stop()


class Waits:
    """A handler that ends when its request is cancelled."""

    def __init__(self):
        self.begun, self.told = threading.Event(), []

    def plain(self, message):
        assert not message.cancelled.is_set() and not message.cancelled.wait(0.001)
        self.begun.set()
        self.told.append(message.cancelled.wait(STEP_SECONDS_MAX) and message.cancelled.is_set())

    async def later(self, message):
        self.begun.set()
        try:
            await asyncio.sleep(STEP_SECONDS_MAX)
        except asyncio.CancelledError:
            self.told.append(True)
            raise


HANDLERS = ["plain", "later"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_cancelled_task_cancels_the_request(served, handler, caplog):
    put, to = served
    waits = Waits()
    put("waits", getattr(waits, handler))

    async def main():
        async with aio.connect(**to) as client:
            task = asyncio.ensure_future(client.request("waits", timeout=None))
            await asyncio.get_running_loop().run_in_executor(None, waits.begun.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while not waits.told:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert waits.told == [True]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("timeout", [0.2, None], ids=["given", "default"])
def test_so_does_a_timeout(served, handler, timeout):
    put, to = served
    waits = Waits()
    put("waits", getattr(waits, handler))

    async def main():
        async with aio.connect(**to, request_timeout=0.2) as client:
            with pytest.raises(TimeoutError):
                await client.request("waits", **({} if timeout is None else {"timeout": timeout}))
            while not waits.told:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    waits.told.clear()
    with FrameworkClient(**to) as client:
        if timeout is None:
            errors = []
            client.send_request_async("waits", 1, print, 0.2, errors.append)
            eventually("the time is over", lambda: errors)
        else:
            assert client.send_request("waits", 1, timeout) is None
        eventually("the handler is told", lambda: waits.told == [True])


@pytest.mark.parametrize("handler", HANDLERS)
def test_so_does_a_requester_that_leaves(served, handler):
    put, to = served
    waits = Waits()
    put("waits", getattr(waits, handler))
    client = FrameworkClient(**to, reconnect=False)
    client.connect()
    client.send_request_async("waits", 1, print, on_error=lambda error: None)
    waits.begun.wait()
    client.socket.shutdown(2)
    eventually("the handler is told", lambda: waits.told == [True])
    client.close()


def test_no_time_at_all(where, app):
    with FrameworkClient(app, **where) as client:
        client.serve("job", lambda message: time.sleep(0.2))
        assert client.send_request("job", 1, timeout=0) is None
        assert client.send_request("job", 1, timeout=-1.5) is None
        with pytest.raises(TimeoutError):
            client.stream("job", timeout=0)


def test_a_message_that_nobody_can_cancel():
    message = Message("", "app", "channel", MessageType.REQUEST, None, 0)
    assert not message.cancelled.is_set() and not message.cancelled.wait(0.01)
    assert message.remaining is None


@pytest.mark.parametrize("is_async", [False, True])
def test_the_time_that_is_left(served, is_async):
    put, to = served

    def plain(message):
        first, _ = message.remaining, time.sleep(0.05)
        return [first, message.remaining]

    async def later(message):
        return plain(message)

    put("left", later if is_async else plain)
    with FrameworkClient(**to) as client:
        first, second = client.send_request("left", 1, timeout=20.0).payload
        assert 15.0 < second <= first - 0.05 < first <= 20.0
        assert client.send_request("left", 1).payload == [None, None], "a default does not travel"

    async def main():
        async with aio.connect(**to) as client:
            first, second = (await client.request("left", timeout=20.0)).payload
            assert 15.0 < second <= first - 0.05 < first <= 20.0
            assert (await client.request("left")).payload == [None, None]
            assert (await client.request("left", timeout=None)).payload == [None, None]

    asyncio.run(main())


def test_requests_of_a_handler_inherit_the_deadline(served):
    put, to = served
    with FrameworkClient(**to) as inner:

        def given(message):
            return {} if message.payload is None else {"timeout": message.payload}

        def outer(message):
            return inner.send_request("inner", 1, **given(message)).payload

        async def outer_later(message):
            async with aio.connect(**to) as client:
                asks = [client.request("inner", **given(message)) for _ in range(2)]
                return (await asyncio.gather(*asks))[1].payload

        def outer_stream(message):
            yield from (part.payload for part in inner.stream("inner", **given(message)))

        async def outer_stream_later(message):
            async with aio.connect(**to) as client:
                async for part in client.stream("inner", **given(message)):
                    yield part.payload

        async def outer_free(message):
            # A context without the deadline is for work that goes on after the answer.
            async with aio.connect(**to) as client:
                task = contextvars.Context().run(asyncio.ensure_future, client.request("inner"))
                return (await task).payload

        put("inner", lambda message: message.remaining)
        one_answer = {"outer": outer, "later": outer_later}
        streams = {"stream": outer_stream, "stream later": outer_stream_later}
        for name, handler in {**one_answer, **streams, "free": outer_free}.items():
            put(name, handler)
        with FrameworkClient(**to) as client:

            def ask(name, payload, **options):
                if name in one_answer:
                    return client.send_request(name, payload, **options).payload
                (part,) = client.stream(name, payload, **options)
                return part.payload

            for name in (*one_answer, *streams):
                # Below what requests have by default.
                assert 0.0 < ask(name, None, timeout=4.0) <= 4.0, name
                assert 0.0 < ask(name, 30.0, timeout=4.0) <= 4.0, name
                assert 4.0 < ask(name, 8.0, timeout=30.0) <= 8.0, name
                assert ask(name, None) is None, name
            assert client.send_request("free", None, timeout=4.0).payload is None


def test_no_request_is_made_when_the_time_is_over(served):
    put, to = served
    seen, told = [], []
    with FrameworkClient(**to) as inner:

        def late(message):
            message.cancelled.wait(STEP_SECONDS_MAX)
            told.append(inner.send_request("inner", 1))
            try:
                inner.stream("inner")
            except TimeoutError as error:
                told.append(error.may_be_executed)

        put("inner", seen.append)
        put("late", late)
        with FrameworkClient(**to) as client:
            assert client.send_request("late", 1, timeout=0.1) is None
            eventually("the handler has ended", lambda: told == [None, False])
            client.flush()
    assert seen == []


@pytest.mark.parametrize("is_async", [False, True])
def test_what_waits_at_a_worker_is_dropped_unstarted(served, is_async):
    put, to = served
    begun, go = [], threading.Event()

    def plain(message):
        begun.append(message.payload)
        go.wait()
        return message.payload

    async def later(message):
        begun.append(message.payload)
        while not go.is_set():
            await asyncio.sleep(0.01)
        return message.payload

    put("job", later if is_async else plain)
    async def main():
        async with aio.connect(**to) as client:
            asks = [asyncio.ensure_future(client.request("job", number)) for number in range(6)]
            while len(begun) < 2:
                await asyncio.sleep(0.01)
            await client.flush()
            for ask in asks[2:5]:
                ask.cancel()
            await asyncio.gather(*asks[2:5], return_exceptions=True)
            await client.flush()
            go.set()
            return [(await ask).payload for ask in (asks[0], asks[1], asks[5])]

    assert asyncio.run(main()) == [0, 1, 5]


@pytest.mark.parametrize("prefetch", [None, 0, 3])
def test_the_storm(where, app, prefetch):
    """Two workers with two threads each and a handler of a second; 40 requests are given up after a tenth of it. The
    next one is served within a handler's time."""
    begun = []

    def model(message):
        begun.append(message.payload)
        time.sleep(1.0)
        return message.payload

    async def main():
        async with aio.connect(app, **where) as client:
            asks = [asyncio.ensure_future(client.request("model", number)) for number in range(40)]
            await asyncio.sleep(0.1)
            for ask in asks:
                ask.cancel()
            await asyncio.gather(*asks, return_exceptions=True)
            begin = time.monotonic()
            assert (await client.request("model", "next")).payload == "next"
            return time.monotonic() - begin

    with FrameworkClient(app, **where) as one, FrameworkClient(app, **where) as other:
        for worker in (one, other):
            worker.serve("model", model, concurrency=2, prefetch=prefetch)
        took = asyncio.run(main())
    # A second for what has begun, one for its own, and nothing of the ten that all of them would take.
    assert took < 3.0
    assert len(begun) <= 5 and begun[-1] == "next"


PUBLISHED = """
import sys, threading
from ipc_framework import FrameworkClient, MessageType
client = FrameworkClient(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
assert client.connect()

def answer(message):
    client.send_message("old", MessageType.RESPONSE, {"old": message.payload}, reply_to=message.message_id)

client.create_channel_handler("old", answer)
assert client.send_request("system", {"action": "serve", "channel": "old"}, 10.0).payload["status"] == "serving"
print("serves", flush=True)
for line in sys.stdin:
    channel = line.strip()
    answered = client.send_request(channel, 3, 10.0)
    print("got", answered and answered.payload, flush=True)
"""


def test_the_published_client_beside_it(where, app, rust):
    """Version 1.1.2 as a worker and as a requester, while others stream and cancel."""
    program = Process(PUBLISHED_PYTHON, "-c", PUBLISHED, app, rust.port)
    try:
        program.expect("serves")
        with FrameworkClient(app, **rust.arguments) as client:
            client.serve("count", lambda message: iter_parts(message), concurrency=4)
            endless = client.stream("count", 10**9)
            next(endless)
            # A worker without streams answers once, and learns of no cancel.
            assert [part.payload for part in client.stream("old", 5)] == [{"old": 5}]
            assert client.send_request("old", 6, timeout=10.0).payload == {"old": 6}

            async def main():
                async with aio.connect(app, **rust.arguments) as asks:
                    for number in range(20):
                        ask = asyncio.ensure_future(asks.request("old", number))
                        await asyncio.sleep(0)
                        ask.cancel()
                    assert (await asks.request("old", 7)).payload == {"old": 7}

            asyncio.run(main())
            # A requester without streams gets all parts at once.
            program.type_line("count")
            program.expect(r"got \[0, 1, 2\]")
            endless.close()
            program.type_line("nobody")
            program.expect("got .*no_handler")
    finally:
        program.kill()


def iter_parts(message):
    yield from range(message.payload)
