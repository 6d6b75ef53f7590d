"""Python functions that serve channels."""

import asyncio
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from peers import OwnServer, Process, PublishedServer, REPO, RustServer, STEP_SECONDS_MAX, eventually
from wire import Peer

from ipc_framework import FrameworkClient, Message, MessageType
from ipc_framework.exceptions import ConnectionError, IPCError


@pytest.fixture(scope="module", params=[RustServer, OwnServer])
def server(request):
    started = request.param()
    yield started
    started.stop()


@pytest.fixture
def pair(server, request):
    """A worker and a requester, of an application of their own."""
    app = request.node.name
    with FrameworkClient(app, **server.arguments) as worker, FrameworkClient(app, **server.arguments) as client:
        yield worker, client


def test_a_function_answers(pair):
    worker, client = pair

    @worker.serve("square")
    def square(message):
        return message.payload**2

    assert square.__name__ == "square"
    assert client.send_request("square", 7).payload == 49
    worker.serve("nothing", lambda message: None)
    assert client.send_request("nothing", 7).payload is None


def test_a_coroutine_function_answers(pair):
    worker, client = pair
    running = []

    async def slow(message):
        running.append(message.payload)
        while len(running) < 10:
            await asyncio.sleep(0.005)
        return threading.current_thread().name

    worker.serve("slow", slow, concurrency=10)
    answers = []
    for number in range(10):
        client.send_request_async("slow", number, lambda message: answers.append(message.payload))
    eventually("all ten ran at once", lambda: len(answers) == 10)
    assert len(set(answers)) == 1, "one loop runs them"


def test_whatever_gives_a_coroutine_answers(pair):
    worker, client = pair

    class Later:
        async def __call__(self, message):
            await asyncio.sleep(0)
            return message.payload + 1

    class Awaited:
        def __init__(self, payload):
            self.payload = payload

        def __await__(self):
            return (yield from later(self).__await__())

    later = Later()
    worker.serve("object", later)
    worker.serve("lambda", lambda message: later(message))
    worker.serve("awaitable", lambda message: Awaited(message.payload))
    assert client.send_request("awaitable", 3).payload == 4
    assert client.send_request("object", 1).payload == 2
    assert client.send_request("lambda", 2).payload == 3


def test_a_handler_that_exits_ends_nothing_else(pair, caplog):
    worker, client = pair

    async def leaves(message):
        sys.exit("in a coroutine")

    worker.serve("exit", lambda message: sys.exit("in a thread"))
    worker.serve("leave", leaves)
    assert "SystemExit: in a thread" in client.send_request("exit", 1).payload["error"]
    assert "SystemExit: in a coroutine" in client.send_request("leave", 1).payload["error"]
    worker.serve("leave", lambda message: "served anew")
    assert client.send_request("leave", 1).payload == "served anew"
    heard = []
    client.subscribe("bad", lambda message: sys.exit("in a handler"))
    client.subscribe("good", lambda message: heard.append(message.payload))
    assert client.flush()
    client.publish("bad", 1)
    client.publish("good", 2)
    eventually("the next message", lambda: heard == [2])
    assert "in a handler" in caplog.text


def test_no_more_than_asked_for_run_at_once(pair):
    worker, client = pair
    lock, running, most, done = threading.Lock(), [0], [0], []

    def work(message):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    worker.serve("work", work, concurrency=3)
    for number in range(30):
        client.send_request_async("work", number, done.append)
    eventually("all are done", lambda: len(done) == 30)
    assert most[0] == 3


def test_failures_reach_the_requester_and_the_log(pair, caplog):
    worker, client = pair

    @worker.serve("fail")
    def fail(message):
        raise ValueError("not like this")

    @worker.serve("nan")
    def nan(message):
        return float("nan")

    answer = client.send_request("fail", 0).payload
    assert answer == {"status": "error", "code": "handler_failed", "error": "ValueError: not like this"}
    assert "not like this" in caplog.text and "Traceback" in caplog.text
    assert client.send_request("nan", 0).payload["code"] == "handler_failed"


def test_an_end_is_an_end(pair):
    worker, client = pair
    worker.serve("brief", lambda message: 1)
    assert client.send_request("brief", 0).payload == 1
    worker.stop_serving("brief")
    assert client.send_request("brief", 0).payload["code"] == "no_handler"


def test_a_request_that_is_being_served_is_answered_before_the_worker_leaves(pair):
    worker, client = pair
    taken, answers = threading.Event(), []

    def slow(message):
        taken.set()
        time.sleep(0.5)
        return "done"

    worker.serve("slow", slow)
    client.send_request_async("slow", 0, lambda message: answers.append(message.payload))
    assert taken.wait(STEP_SECONDS_MAX)
    assert worker.close() is True
    eventually("it is answered", lambda: answers == ["done"])


def test_notifications_are_served_too(pair):
    worker, client = pair
    seen = []
    worker.serve("notes", lambda message: seen.append(message.payload))
    client.notify("notes", "here")
    eventually("it is there", lambda: seen == ["here"])


def test_a_worker_as_the_published_package_writes_it(pair):
    from ipc_framework import MessageType

    worker, client = pair

    def square(request):
        answer = request.payload**2
        worker.send_message("square", MessageType.RESPONSE, answer, reply_to=request.message_id)

    worker.create_channel_handler("square", square)
    assert worker.send_request("system", {"action": "serve", "channel": "square"}).payload["status"] == "serving"
    assert client.send_request("square", 7).payload == 49


def test_the_published_server_has_no_workers():
    server = PublishedServer()
    with FrameworkClient("bench", **server.arguments, connection_timeout=3.0) as client:
        with pytest.raises(IPCError) as refused:
            client.serve("square", print)
        assert refused.value.code == "timeout"
    server.stop()


def test_serving_wants_a_connection():
    with pytest.raises(ConnectionError):
        FrameworkClient("bench").serve("square", print)


def test_a_dead_worker_is_told_to_its_requesters(server, request):
    import sys

    app = request.node.name
    code = f"""
import time
from ipc_framework import FrameworkClient
worker = FrameworkClient({app!r}, port={server.port})
worker.connect()
worker.serve("held", lambda message: (print("taken", flush=True), time.sleep(1000)))
worker.wait()
"""
    program = Process(sys.executable, "-c", code)
    with FrameworkClient(app, **server.arguments) as client:
        eventually("it serves", lambda: client.send_request("system", {"action": "list_services"}).payload["services"])
        answers = []
        client.send_request_async("held", 0, lambda message: answers.append(message.payload["code"]))
        program.expect("taken")
        program.signal(signal.SIGKILL)
        eventually("the requester is told", lambda: answers == ["worker_lost"])
    program.kill()


NODE = """
const { IPCClient } = require(process.argv[1]);
(async () => {
  const client = new IPCClient('models', { host: '127.0.0.1', port: Number(process.argv[2]) });
  await client.connect();
  const answers = await Promise.all([...Array(50).keys()].map((x) => client.sendRequest('predict', { x })));
  console.log(JSON.stringify(answers.map((answer) => answer.payload.y)));
  client.disconnect();
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_a_model_in_python_answers_a_front_end_in_node(server):
    assert shutil.which("node"), "Node.js 18 or newer is needed: install it and run again"
    with FrameworkClient("models", **server.arguments) as worker:
        worker.serve("predict", lambda message: {"y": 3 * message.payload["x"] + 1}, concurrency=4)
        command = ["node", "-e", NODE, REPO / "clients" / "node", str(server.port)]
        node = subprocess.run(command, capture_output=True, text=True, timeout=STEP_SECONDS_MAX)
        assert node.returncode == 0, node.stderr
        assert node.stdout.strip() == str([3 * x + 1 for x in range(50)]).replace(" ", "")


def test_a_served_function_may_close_its_client(server, request):
    app = request.node.name
    worker = FrameworkClient(app, **server.arguments)
    assert worker.connect()
    with FrameworkClient(app, **server.arguments) as client:

        async def end_later(message):
            return worker.close()

        for end in (lambda message: worker.close(), end_later):
            assert worker.connect()
            worker.serve("end", end)
            assert client.send_request("end", 0, timeout=STEP_SECONDS_MAX).payload is True
            eventually("it is closed", lambda: not worker.connected)


class Untellable(Exception):
    def __str__(self):
        raise RuntimeError("it has no text")


class BrokenLog(logging.Handler):
    def emit(self, record):
        raise OSError("no space left on device")


@pytest.fixture
def broken_log():
    log = logging.getLogger("ipc_framework.client")
    handler = BrokenLog()
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.parametrize("of_coroutine", [False, True])
def test_no_error_ends_the_thread_of_a_handler(pair, broken_log, of_coroutine):
    worker, client = pair
    errors = {"surrogate": ValueError("the file \udcff"), "untellable": Untellable(), "plain": KeyError("a")}

    def plain(message):
        raise errors[message.payload] if message.payload in errors else SystemExit(1)

    async def coroutine(message):
        plain(message)

    worker.serve("fails", coroutine if of_coroutine else plain)
    told = [client.send_request("fails", name, STEP_SECONDS_MAX).payload["error"] for name in (*errors, "exit")]
    assert told == [
        "ValueError: the file \\udcff",
        "Untellable, whose text cannot be had",
        "KeyError: 'a'",
        "SystemExit: 1",
    ]


def test_a_worker_without_a_thread_is_refused(pair, monkeypatch):
    worker, client = pair

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            worker.serve("job", lambda message: 1)
    assert client.send_request("job", 1).payload["code"] == "no_handler"


def test_requests_that_python_cannot_read_do_not_stop_a_worker(server, pair):
    worker, client = pair
    go = threading.Event()

    @worker.serve("job")
    async def job(message):
        while not go.is_set():
            await asyncio.sleep(0.005)
        return message.payload

    answers = []
    client.send_request_async("job", 1, lambda message: answers.append(message.payload))
    peer = Peer(server, worker.app_id, "other")
    for number in range(3):
        # Python reads no integer of so many digits, and this is more than what the handler is free for.
        message = Message(str(number), worker.app_id, "job", MessageType.REQUEST, "digits", 1.5).to_json()
        body = message.replace('"digits"', "1" * 5_000).encode()
        peer.socket.sendall(len(body).to_bytes(4, "big") + body)
    peer.fence()
    client.send_request_async("job", 2, lambda message: answers.append(message.payload))
    assert client.flush()
    go.set()
    eventually("the others are answered", lambda: answers == [1, 2])
    assert [peer.receive()["payload"]["code"] for _ in range(3)] == ["handler_failed"] * 3
    peer.close()
