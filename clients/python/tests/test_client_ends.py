"""What a worker has in hand when it stops to serve, serves anew, closes, or when its process ends."""

import asyncio
import threading
import time

import pytest
from peers import OwnServer, RustServer, STEP_SECONDS_MAX, eventually, run_program

from ipc_framework import FrameworkClient, aio


@pytest.fixture(scope="module", params=[RustServer, OwnServer])
def server(request):
    started = request.param()
    yield started
    started.stop()


class Handlers:
    """A handler of each kind. It works until `go` is set, and notes whether it got to its end."""

    def __init__(self):
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def plain(self, message):
        self.begun.set()
        assert self.go.wait(STEP_SECONDS_MAX)
        self.ended.set()
        return message.payload

    async def coroutine(self, message):
        self.begun.set()
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.005)
            return message.payload
        finally:
            self.ended.set()

    def mixed(self, message):
        return self.coroutine(message)


class Worker:
    """A client in a thread or in a loop of its own, behind one interface."""

    def __init__(self, kind, app, server):
        self.kind = kind
        if kind == "threads":
            self.client = FrameworkClient(app, **server.arguments)
            assert self.client.connect()
            return
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

        async def connect():
            return await aio.connect(app, **server.arguments)

        self.client = self.run(connect())

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(STEP_SECONDS_MAX)

    def call(self, name, *arguments, **options):
        method = getattr(self.client, name)
        if self.kind == "threads":
            return method(*arguments, **options)

        async def call():
            return await method(*arguments, **options)

        return self.run(call())


@pytest.fixture(params=["threads", "aio"])
def worker(request, server):
    made = Worker(request.param, request.node.name, server)
    yield made
    made.call("close", timeout=0.2)
    if made.kind == "aio":
        made.loop.call_soon_threadsafe(made.loop.stop)


@pytest.fixture
def client(request, server):
    with FrameworkClient(request.node.name, **server.arguments) as connected:
        yield connected


@pytest.fixture(params=["plain", "coroutine", "mixed"])
def handlers(request):
    made = Handlers()
    made.handler = getattr(made, request.param)
    yield made
    made.go.set()


@pytest.mark.parametrize("how", ["stop_serving", "serve anew", "close"])
def test_all_that_has_arrived_is_finished(worker, client, handlers, how):
    worker.call("serve", "held", handlers.handler, concurrency=1)
    answers = []
    for number in range(3):
        client.send_request_async("held", number, lambda message: answers.append(message.payload))
    assert handlers.begun.wait(STEP_SECONDS_MAX)
    assert client.flush()
    if how == "close":
        closed = []
        closing = threading.Thread(target=lambda: closed.append(worker.call("close", timeout=STEP_SECONDS_MAX)))
        closing.start()
        # Only now it goes on, when the server has been told: nothing is served any more.
        list_services = {"action": "list_services"}
        eventually("it is told", lambda: not client.send_request("system", list_services).payload["services"])
        handlers.go.set()
        closing.join(STEP_SECONDS_MAX)
        assert closed == [True]
    elif how == "stop_serving":
        worker.call("stop_serving", "held")
        assert client.send_request("held", 3).payload["code"] == "no_handler"
    else:
        worker.call("serve", "held", lambda message: "served anew")
        assert client.send_request("held", 3).payload == "served anew"
    handlers.go.set()
    eventually("all three are answered", lambda: len(answers) == 3)
    assert answers == [0, 1, 2]


def test_a_close_whose_time_is_over_lets_a_coroutine_clean_up(worker, client):
    handlers = Handlers()
    worker.call("serve", "held", handlers.coroutine)
    failed = []
    client.send_request_async("held", 0, lambda message: failed.append(message.payload["code"]))
    assert handlers.begun.wait(STEP_SECONDS_MAX)
    assert worker.call("close", timeout=0.1) is False
    assert handlers.ended.is_set(), "its `finally` has run"
    eventually("the requester is told", lambda: failed == ["worker_lost"])


def test_a_queue_that_is_full_answers_that(worker, client, handlers):
    worker.call("serve", "held", handlers.handler, concurrency=1, queue_max=2)
    codes, answers = [], []

    def note(message):
        error = isinstance(message.payload, dict) and message.payload["code"]
        (codes if error else answers).append(error or message.payload)

    client.send_request_async("held", 0, note)
    assert handlers.begun.wait(STEP_SECONDS_MAX)
    for number in range(1, 6):
        client.send_request_async("held", number, note)
    eventually("three are refused", lambda: codes == ["limit_exceeded"] * 3)
    handlers.go.set()
    eventually("the others are answered", lambda: sorted(answers) == [0, 1, 2])
    with pytest.raises(ValueError):
        worker.call("serve", "none", handlers.handler, queue_max=0)


STUCK = """
import asyncio, threading, time
from ipc_framework import FrameworkClient, aio
begun = threading.Event()
def stuck(request):
    begun.set()
    time.sleep(1000)
async def stuck_task(request):
    begun.set()
    try:
        await asyncio.sleep(1000)
    finally:
        print("cleaned up", flush=True)
client = FrameworkClient("stuck", port={port})
assert client.connect()
"""
THREADS = """
worker = FrameworkClient("stuck", port={port})
assert worker.connect()
worker.serve("stuck", {handler})
client.request("stuck", 1)
assert begun.wait(30)
{end}
"""
AIO = """
async def main():
    worker = await aio.connect("stuck", port={port})
    await worker.serve("stuck", {handler})
    client.request("stuck", 1)
    while not begun.is_set():
        await asyncio.sleep(0.01)
    {end}
asyncio.run(main())
"""


@pytest.mark.parametrize("handler", ["stuck", "stuck_task"])
@pytest.mark.parametrize(
    "program, end",
    [
        (THREADS, "worker.close(timeout=0.1)"),
        (THREADS, "worker.stop_serving('stuck')"),
        (THREADS, "worker.serve('stuck', lambda request: 1)"),
        (THREADS, ""),
        (AIO, "await worker.close(timeout=0.1)"),
        (AIO, "await worker.stop_serving('stuck')"),
        (AIO, ""),
    ],
)
def test_no_handler_holds_the_process(rust, program, end, handler):
    code = (STUCK + program).format(port=rust.port, handler=handler, end=end)
    begin = time.monotonic()
    ended = run_program(code)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr and "Fatal" not in ended.stderr, ended.stderr
    assert time.monotonic() - begin < 20, "it would be held for 1000 s"
    if handler == "stuck_task" and "stop_serving" not in end and "lambda" not in end:
        assert ended.stdout == "cleaned up\n"
