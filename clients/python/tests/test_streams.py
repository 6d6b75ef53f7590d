"""Answers that come in parts."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
import time

import pytest
from peers import REPO, PublishedServer, RustServer, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient, FrameworkServer, HandlerError, Message, aio
from ipc_framework.exceptions import ApplicationError, ConnectionError, IPCError, TimeoutError


class Endless:
    """Handlers whose parts do not end, and what became of them."""

    def __init__(self):
        self.made = 0
        self.closed = threading.Event()

    def plain(self, message):
        try:
            while True:
                yield self.made
                self.made += 1
        finally:
            self.closed.set()

    async def later(self, message):
        try:
            while True:
                yield self.made
                self.made += 1
        finally:
            self.closed.set()

    def stuck(self, message):
        """One that makes its first part, and then waits until nobody wants the next one."""
        try:
            yield 0
            message.cancelled.wait(STEP_SECONDS_MAX)
        finally:
            self.closed.set()

    async def asleep(self, message):
        try:
            yield 0
            await asyncio.sleep(STEP_SECONDS_MAX)
        finally:
            self.closed.set()


def count(message):
    for number in range(message.payload):
        yield {"part": number}


async def count_later(message):
    for number in range(message.payload):
        await asyncio.sleep(0)
        yield {"part": number}


HANDLERS = {
    "generator": count,
    "async": count_later,
    "lambda": lambda message: count(message),
    "async lambda": lambda message: count_later(message),
}


@pytest.fixture(params=["worker", "aio", "server", "server with threads"])
def served(request, where, tmp_path):
    """Serves handlers in one of the ways that there are: `put(channel, handler)`, and where clients find them."""
    app = request.node.name
    if request.param == "worker":
        with FrameworkClient(app, **where) as worker:
            yield lambda channel, handler: worker.serve(channel, handler, concurrency=4), {"app_id": app, **where}
    elif request.param == "aio":
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        async def connect():
            return await aio.connect(app, **where)

        async def put(channel, handler):
            await client.serve(channel, handler)

        run = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(STEP_SECONDS_MAX)
        client = run(connect())
        yield lambda channel, handler: run(put(channel, handler)), {"app_id": app, **where}
        run(client.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    else:
        path = str(tmp_path / "own.sock")
        unix = {"unix": path, "host": None} if "unix" in where else {}
        server = FrameworkServer(port=0, workers=2 if "threads" in request.param else 0, **unix)
        application = server.create_application(app)
        server.start()
        to = {"unix": path} if unix else {"host": "localhost", "port": server.port}
        yield lambda channel, handler: application.create_channel(channel).serve(handler), {"app_id": app, **to}
        server.stop()


@pytest.fixture
def client(served):
    with FrameworkClient(**served[1]) as client:
        yield client


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_every_part_is_a_message(served, client, handler):
    put, to = served
    put("count", handler)
    parts = list(client.stream("count", 300))
    assert [part.payload for part in parts] == [{"part": number} for number in range(300)]
    assert isinstance(parts[0], Message) and parts[0].channel_id == "count"
    assert list(client.stream("count", 0)) == []
    # Who takes one answer gets one.
    assert client.send_request("count", 2).payload == [{"part": 0}, {"part": 1}]

    async def main():
        async with aio.connect(**to) as asks:
            assert [part.payload["part"] async for part in asks.stream("count", 300)] == list(range(300))
            assert (await asks.request("count", 1)).payload == [{"part": 0}]

    asyncio.run(main())


def test_one_value_is_a_stream_of_one_part(served, client):
    put, _ = served
    put("plain", lambda message: message.payload)
    assert [part.payload for part in client.stream("plain", 5)] == [5]


def test_parts_arrive_one_by_one(served, client):
    put, _ = served
    go = threading.Semaphore(0)

    def slow(message):
        for number in range(3):
            go.acquire()
            yield number

    put("slow", slow)
    stream = client.stream("slow")
    for number in range(3):
        go.release()
        assert next(stream).payload == number
    assert next(stream, None) is None and next(stream, None) is None


def leave_by_break(client):
    for part in client.stream("endless"):
        break


def leave_by_close(client):
    stream = client.stream("endless")
    next(stream)
    stream.close()
    assert list(stream) == []


def leave_by_with(client):
    with client.stream("endless") as stream:
        next(stream)


def leave_by_forgetting(client):
    stream = client.stream("endless")
    cycle = [stream]
    cycle.append(cycle)
    next(stream)
    del stream, cycle
    gc.collect()


def leave_before_the_first_part(client):
    client.stream("endless").close()


LEAVE = [leave_by_break, leave_by_close, leave_by_with, leave_by_forgetting]


@pytest.mark.parametrize("handler", ["plain", "later", "stuck", "asleep"])
@pytest.mark.parametrize("leave", LEAVE, ids=lambda leave: leave.__name__)
def test_leaving_ends_the_handler(served, client, leave, handler):
    put, _ = served
    endless = Endless()
    put("endless", getattr(endless, handler))
    leave(client)
    assert endless.closed.wait(STEP_SECONDS_MAX)
    put("plain", lambda message: message.payload)
    assert client.send_request("plain", 1).payload == 1


async def aio_leave_by_break(client):
    async for part in client.stream("endless"):
        break


async def aio_leave_by_aclose(client):
    stream = client.stream("endless")
    await stream.__anext__()
    await stream.aclose()
    assert [part async for part in stream] == []


async def aio_leave_by_with(client):
    async with client.stream("endless") as stream:
        await stream.__anext__()


async def aio_leave_by_cancelling(client):
    async def read():
        async for part in client.stream("endless"):
            got.set()

    got = asyncio.Event()
    task = asyncio.ensure_future(read())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


AIO_LEAVE = [aio_leave_by_break, aio_leave_by_aclose, aio_leave_by_with, aio_leave_by_cancelling]


@pytest.mark.parametrize("handler", ["plain", "asleep"])
@pytest.mark.parametrize("leave", AIO_LEAVE, ids=lambda leave: leave.__name__)
def test_leaving_ends_the_handler_of_aio(served, leave, handler):
    put, to = served
    endless = Endless()
    put("endless", getattr(endless, handler))

    async def main():
        async with aio.connect(**to) as client:
            await leave(client)
            await asyncio.get_running_loop().run_in_executor(None, endless.closed.wait, STEP_SECONDS_MAX)

    asyncio.run(main())
    assert endless.closed.is_set()


@pytest.mark.parametrize("handler", ["plain", "later", "asleep"])
def test_a_requester_that_vanishes_ends_the_handler(served, handler):
    put, to = served
    endless = Endless()
    put("endless", getattr(endless, handler))
    client = FrameworkClient(**to)
    client.connect()
    stream = client.stream("endless")
    next(stream)
    client.socket.shutdown(2)
    assert endless.closed.wait(STEP_SECONDS_MAX)
    client.close()


@pytest.mark.parametrize("handler", ["plain", "later"])
def test_a_reader_that_does_not_read_stops_the_generator(served, client, handler):
    put, _ = served
    endless = Endless()
    put("endless", getattr(endless, handler))
    with client.stream("endless") as stream:
        next(stream)
        last = -1
        # Until no part is made any more.
        while last != endless.made:
            last = endless.made
            time.sleep(0.3)
        assert last < 2_000
        for _ in range(last + 10):
            next(stream)
        eventually("more parts are made", lambda: endless.made > last)


def fails(message):
    yield 1
    raise HandlerError("gone", "the model is gone", {"at": 1})


async def fails_later(message):
    yield 1
    raise HandlerError("gone", "the model is gone", {"at": 1})


@pytest.mark.parametrize("handler", [fails, fails_later])
def test_an_error_ends_a_stream(served, client, handler):
    put, to = served
    put("fails", handler)
    stream = client.stream("fails")
    assert next(stream).payload == 1
    with pytest.raises(ApplicationError) as raised:
        next(stream)
    assert (raised.value.code, str(raised.value), raised.value.details) == ("app:gone", "the model is gone", {"at": 1})
    assert list(stream) == []

    async def main():
        async with aio.connect(**to) as asks:
            stream = asks.stream("fails")
            assert (await stream.__anext__()).payload == 1
            with pytest.raises(ApplicationError) as raised:
                await stream.__anext__()
            assert raised.value.details == {"at": 1}

    asyncio.run(main())
    with pytest.raises(IPCError) as refused:
        next(client.stream("nobody"))
    assert refused.value.code == "no_handler"


@pytest.mark.parametrize("handler", ["plain", "stuck", "asleep"])
def test_its_time_bounds_a_stream(served, client, handler):
    put, to = served
    endless = Endless()
    put("endless", getattr(endless, handler))
    with pytest.raises(TimeoutError):
        for part in client.stream("endless", timeout=0.3):
            time.sleep(0.01)
    assert endless.closed.wait(STEP_SECONDS_MAX)

    async def main():
        async with aio.connect(**to) as asks:
            with pytest.raises(TimeoutError):
                async for part in asks.stream("endless", timeout=0.3):
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_lost_connection_ends_streams():
    server = RustServer()
    with FrameworkClient("app", **server.arguments) as worker:
        worker.serve("endless", Endless().plain)
        with FrameworkClient("app", **server.arguments) as client:
            stream = client.stream("endless")
            next(stream)
            server.kill()
            with pytest.raises(ConnectionError):
                for part in stream:
                    pass


def test_a_server_without_streams_says_so():
    server = PublishedServer()
    with FrameworkClient("bench", **server.arguments) as client:
        with pytest.raises(IPCError) as refused:
            next(client.stream("echo"))
        assert refused.value.code == "unsupported"
    server.stop()


def test_a_closed_client_ends_its_streams(served):
    put, to = served
    endless = Endless()
    put("endless", endless.plain)
    client = FrameworkClient(**to)
    client.connect()
    stream = client.stream("endless")
    next(stream)
    client.close()
    with pytest.raises(ConnectionError):
        for part in stream:
            pass
    assert endless.closed.wait(STEP_SECONDS_MAX)


@pytest.mark.parametrize("handler", ["plain", "later", "asleep"])
def test_a_worker_that_ends_ends_its_streams(where, request, handler):
    app, endless = request.node.name, Endless()
    with FrameworkClient(app, **where) as client:
        worker = FrameworkClient(app, **where)
        worker.connect()
        worker.serve("endless", getattr(endless, handler))
        stuck = client.stream("endless")
        next(stuck)
        # Its reader does not read, so this cannot be answered.
        assert worker.close(timeout=0.5) is False
        assert endless.closed.wait(STEP_SECONDS_MAX)
        with pytest.raises(IPCError) as ended:
            for part in stuck:
                pass
        assert ended.value.code in ("worker_lost", "handler_failed")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("handler", ["plain", "later", "asleep"])
def test_a_server_that_stops_ends_its_streams(serve, workers, handler):
    endless = Endless()
    server = serve(workers=workers, limits={"drain_timeout": 0.3})
    server.create_application("app").create_channel("endless").serve(getattr(endless, handler))
    server.start()
    with FrameworkClient("app", port=server.port, reconnect=False) as client:
        stuck = client.stream("endless")
        next(stuck)
        server.stop()
        assert not server.running and endless.closed.wait(STEP_SECONDS_MAX)
        with pytest.raises(IPCError):
            for part in stuck:
                pass


@pytest.mark.parametrize("is_async", [False, True])
def test_one_slow_reader_does_not_hold_up_the_others(where, is_async):
    made = [0] * 100

    def parts(message):
        for number in range(500):
            made[message.payload] += 1
            yield number

    async def parts_later(message):
        for part in parts(message):
            yield part

    async def main():
        async def read(number):
            return [part.payload async for part in client.stream("parts", number)]

        async with aio.connect("app", **where) as client:
            stuck = client.stream("parts", 0)
            await stuck.__anext__()
            others = await asyncio.gather(*(read(number) for number in range(1, 100)))
            assert others == [list(range(500))] * 99
            assert made[0] < 500, "its credit, and one more"
            assert [part.payload async for part in stuck] == list(range(1, 500))

    with FrameworkClient("app", **where) as worker:
        worker.serve("parts", parts_later if is_async else parts, concurrency=100)
        asyncio.run(main())


FORKS = """
import os, sys
from ipc_framework import FrameworkClient
with FrameworkClient("app", port=int(sys.argv[1])) as client:
    client.serve("count", lambda message: iter_parts(message))
    stream = client.stream("count", 300)
    assert next(stream).payload == 0
    child = os.fork()
    if not child:
        # Its copy belongs to the parent: it has no parts, and its end cancels nothing.
        assert list(stream) == []
        del stream
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [part.payload for part in stream] == list(range(1, 300))
"""


def test_a_forked_child_does_not_end_its_parents_streams(rust):
    code = "def iter_parts(message):\n    yield from range(message.payload)\n" + FORKS
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(rust.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
    assert (ended.returncode, ended.stderr) == (0, "")


NODE = """
const { IPCClient } = require(process.argv[1]);
(async () => {
  const client = new IPCClient('models', { host: '127.0.0.1', port: Number(process.argv[2]) });
  await client.connect();
  const late = [];
  for await (const part of client.stream('tokens', 50)) late.push(Date.now() / 1000 - part.payload);
  let count = 0;
  for await (const part of client.stream('tokens', 1000000)) if (++count === 25) break;
  console.log(JSON.stringify(late));
  client.disconnect();
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.parametrize("is_async", [False, True])
def test_node_reads_tokens_as_they_come_and_leaves(rust, is_async):
    closed, made = threading.Event(), []

    def tokens(message):
        try:
            for _ in range(message.payload):
                time.sleep(0.02)
                made.append(1)
                yield time.time()
        finally:
            if message.payload > 50:
                closed.set()

    async def tokens_later(message):
        try:
            for _ in range(message.payload):
                await asyncio.sleep(0.02)
                made.append(1)
                yield time.time()
        finally:
            if message.payload > 50:
                closed.set()

    with FrameworkClient("models", **rust.arguments) as worker:
        worker.serve("tokens", tokens_later if is_async else tokens)
        command = ["node", "-e", NODE, str(REPO / "clients" / "node"), str(rust.port)]
        node = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
        assert node.returncode == 0, node.stderr
        late = sorted(json.loads(node.stdout))
        # Each comes before the next one is made, and not with the last one.
        assert len(late) == 50 and late[25] < 0.02, late
        assert closed.wait(STEP_SECONDS_MAX)
        assert len(made) < 50 + 25 + 200
