"""The asyncio client against all three servers."""

import asyncio
import builtins
import functools
import gc
import inspect
import signal
import sys
import threading
import time

import pytest
import uvloop
from peers import OwnServer, PublishedServer, RustServer, STEP_SECONDS_MAX, free_port, run_program

from ipc_framework import FrameworkClient, Message, aio
from ipc_framework.exceptions import (
    ApplicationError,
    AuthenticationError,
    ConnectionError,
    RoutingError,
    SerializationError,
    TimeoutError,
)

QUICK = (0.01, 0.1)


def in_a_loop(test):
    """Runs a coroutine function as a test; one that hangs fails."""

    @functools.wraps(test)
    def run(*arguments, **named):
        async def bounded():
            await asyncio.wait_for(test(*arguments, **named), 2 * STEP_SECONDS_MAX)

        asyncio.run(bounded())

    return run


@pytest.fixture(scope="module", params=[RustServer, PublishedServer, OwnServer])
def server(request):
    started = request.param()
    yield started
    started.stop()


async def eventually(what, condition):
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.01)
    return value


def whom(client, **payload):
    return {"connection_id": client.connection_id, **payload}


@in_a_loop
async def test_a_request(server):
    async with aio.connect("bench", **server.arguments) as client:
        answer = await client.request("echo", whom(client, text="żółw", number=7))
        assert isinstance(answer, Message) and answer.payload["text"] == "żółw"
        assert client.connected
    assert not client.connected
    with pytest.raises(ConnectionError):
        await client.request("echo", 1)


@in_a_loop
async def test_connect_can_be_awaited(server):
    client = await aio.connect("bench", **server.arguments)
    assert (await client.request("echo", whom(client, number=1))).payload["number"] == 1
    assert await client.close() is True
    assert await client.close() is True
    await client.wait_closed()


@in_a_loop
async def test_a_thousand_requests_at_once(server):
    async with aio.connect("bench", **server.arguments, request_timeout=STEP_SECONDS_MAX) as client:
        asked = [client.request("echo", whom(client, number=number)) for number in range(1000)]
        answers = await asyncio.gather(*asked)
        assert [answer.payload["number"] for answer in answers] == list(range(1000))
        assert client._requests == {}


@in_a_loop
async def test_a_subscription(server):
    async with aio.connect("bench", **server.arguments) as client:
        news = client.subscribe("news")
        for number in range(500):
            await client.publish("news", number)
        seen = []
        async for message in news:
            seen.append(message.payload)
            if len(seen) == 500:
                break
        assert seen == list(range(500))
        assert news.missed == 0
        # Who stops waiting takes nothing away.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(news.__anext__(), 0.05)
        await client.publish("news", "later")
        assert (await news.__anext__()).payload == "later"


@in_a_loop
async def test_subscriptions_share_a_channel_and_end(rust):
    async with aio.connect("bench", **rust.arguments) as client:

        async def subscribers():
            answer = await client.request("system", {"action": "list_channels"})
            return answer.payload.get("shared", {}).get("subscribers", 0)

        async with client.subscribe("shared") as first:
            second = client.subscribe("shared")
            await client.publish("shared", "both")
            assert (await first.__anext__()).payload == (await second.__anext__()).payload == "both"
        assert await subscribers() == 1
        await client.publish("shared", "second alone")
        assert (await second.__anext__()).payload == "second alone"
        with pytest.raises(StopAsyncIteration):
            await first.__anext__()
        # Nothing refers to it any more.
        del second
        gc.collect()
        assert await subscribers() == 0
        last = client.subscribe("shared")
        await client.publish("shared", "read after the end")
        await client.flush()
    assert [message.payload async for message in last] == ["read after the end"]


@in_a_loop
async def test_a_slow_reader_misses_what_is_too_much_and_knows(rust):
    async with aio.connect("bench", **rust.arguments) as client:
        slow = client.subscribe("flood", messages_max=10)
        for number in range(25):
            await client.publish("flood", number)
        await client.flush()
        assert [(await slow.__anext__()).payload for _ in range(10)] == list(range(10))
        assert slow.missed == 15


@in_a_loop
async def test_timeouts_and_cancellation_leave_nothing_pending(server):
    async with aio.connect("bench", **server.arguments) as client:
        if isinstance(server, RustServer):
            client.serve("silent", lambda message: time.sleep(2.0), concurrency=100)
            await client.ready()
        with pytest.raises(TimeoutError) as late:
            await client.request("silent", whom(client), timeout=0.5)
        assert late.value.code == "timeout" and late.value.may_be_executed
        # What other libraries raise for it, and so what callers catch.
        assert isinstance(late.value, builtins.TimeoutError)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.request("silent", whom(client)), 0.05)
        if sys.version_info >= (3, 11):
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.request("silent", whom(client), timeout=None)
        task = asyncio.create_task(client.request("silent", whom(client)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client._requests == {} and client.info()["pending_requests"] == 0
        assert (await client.request("echo", whom(client, number=1))).payload["number"] == 1


@in_a_loop
async def test_errors_have_codes_and_classes(rust):
    async with aio.connect("bench", **rust.arguments) as client:
        with pytest.raises(RoutingError) as refused:
            await client.request("nobody", 0)
        assert refused.value.code == "no_handler" and not refused.value.may_be_executed

        @client.serve("fail")
        async def fail(message):
            raise ValueError("not like this")

        await client.ready()
        with pytest.raises(ApplicationError, match="ValueError: not like this") as failed:
            await client.request("fail", 0)
        assert failed.value.code == "handler_failed" and failed.value.may_be_executed
        for bad in (object(), float("nan")):
            with pytest.raises(SerializationError):
                await client.request("echo", bad)
            with pytest.raises(SerializationError):
                await client.publish("news", bad)
        assert client._requests == {}


@in_a_loop
async def test_an_answer_that_looks_like_an_error_and_is_none(rust):
    async with aio.connect("bench", **rust.arguments) as client:
        for payload in ({"status": "error"}, {"status": "error", "code": "mine", "error": "x"}, {"code": "timeout"}):
            assert (await client.request("echo", payload)).payload == payload


@in_a_loop
async def test_serving(rust):
    async with aio.connect("models", **rust.arguments) as worker, aio.connect("models", **rust.arguments) as client:
        running = []

        @worker.serve("together", concurrency=20)
        async def together(message):
            running.append(message.payload)
            while len(running) < 20:
                await asyncio.sleep(0.005)
            return message.payload

        await worker.serve("thread", lambda message: threading.current_thread() is threading.main_thread())
        await worker.ready()
        assert inspect.iscoroutinefunction(together)
        answers = await asyncio.gather(*(client.request("together", number) for number in range(20)))
        assert [answer.payload for answer in answers] == list(range(20))
        assert (await client.request("thread", 0)).payload is False
        await worker.stop_serving("thread")
        with pytest.raises(RoutingError):
            await client.request("thread", 0)


@in_a_loop
async def test_whatever_gives_a_coroutine_answers(rust):
    class Later:
        async def __call__(self, message):
            return message.payload + 1

    later = Later()
    async with aio.connect("later", **rust.arguments) as client:
        await client.serve("object", later)
        await client.serve("lambda", lambda message: later(message))
        assert (await client.request("object", 1)).payload == 2
        assert (await client.request("lambda", 2)).payload == 3


@in_a_loop
async def test_closing_answers_what_is_being_served(rust):
    async with aio.connect("models", **rust.arguments) as client:
        taken = asyncio.Event()
        worker = await aio.connect("models", **rust.arguments)

        async def slow(message):
            taken.set()
            await asyncio.sleep(0.3)
            return "done"

        await worker.serve("slow", slow)
        asking = asyncio.create_task(client.request("slow", 0))
        await taken.wait()
        assert await worker.close() is True
        assert (await asking).payload == "done"


def closes_itself(how, loop, worker):
    """A handler that ends its own client in one of several ways."""

    async def handle(message):
        if how == "close":
            return await worker.close(STEP_SECONDS_MAX)
        if how == "wait_for":
            return await asyncio.wait_for(worker.close(STEP_SECONDS_MAX), STEP_SECONDS_MAX)
        (closed,) = await asyncio.gather(worker.close(STEP_SECONDS_MAX))
        return closed

    def plain(message):
        return asyncio.run_coroutine_threadsafe(worker.close(STEP_SECONDS_MAX), loop).result()

    return plain if how == "plain" else handle


@pytest.mark.parametrize("how", ["close", "wait_for", "gather", "plain"])
@in_a_loop
async def test_a_handler_may_close_its_client(rust, how):
    async with aio.connect("ending", **rust.arguments, request_timeout=STEP_SECONDS_MAX) as client:
        worker = await aio.connect("ending", **rust.arguments)
        await worker.serve("end", closes_itself(how, asyncio.get_running_loop(), worker))
        assert (await client.request("end", 0)).payload is True
        await worker.wait_closed()
        assert not worker.connected


@in_a_loop
async def test_an_answer_that_has_to_wait_for_room_holds_the_loop_for_nobody(tmp_path):
    path = str(tmp_path / "ipc.sock")
    server = RustServer("--unix", path)
    options = {"connect_timeout": STEP_SECONDS_MAX, "heartbeat": None, "queue_bytes_max": 100_000}
    async with aio.connect("bench", **server.arguments, request_timeout=STEP_SECONDS_MAX) as client:
        worker = await aio.connect("bench", unix=path, **options)
        begun, go = [], asyncio.Event()

        async def large(message):
            begun.append(message)
            await go.wait()
            return "x" * 100_000

        await worker.serve("large", large, concurrency=20)
        asking = [asyncio.create_task(client.request("large", number)) for number in range(20)]
        await eventually("all are in hand", lambda: len(begun) == 20)
        server.signal(signal.SIGSTOP)
        go.set()
        begin = time.monotonic()
        await eventually("the queue is full", lambda: worker._native.is_full)
        await asyncio.sleep(0.1)
        took = time.monotonic() - begin
        server.signal(signal.SIGCONT)
        assert took < STEP_SECONDS_MAX / 2, took
        assert [len(answer.payload) for answer in await asyncio.gather(*asking)] == [100_000] * 20
        await worker.close()
    server.stop()


@in_a_loop
async def test_what_cannot_be_served_is_told():
    server = PublishedServer()
    async with aio.connect("bench", **server.arguments, connect_timeout=3.0) as client:
        client.serve("square", print)
        with pytest.raises(TimeoutError):
            await client.ready()
    server.stop()


@in_a_loop
async def test_connecting_to_nothing():
    with pytest.raises(ConnectionError, match="port is a number from 1 to 65535"):
        await aio.connect("app", port=70_000)
    with pytest.raises(ConnectionError) as refused:
        await aio.connect("bench", port=1)
    assert refused.value.code == "unreachable"
    server = RustServer(IPC_TOKEN="secret")
    with pytest.raises(AuthenticationError):
        async with aio.connect("bench", **server.arguments, token="wrong"):
            pass
    async with aio.connect("bench", **server.arguments, token="secret") as client:
        assert await client.ping() > 0
    server.stop()


@in_a_loop
async def test_a_server_that_comes_back():
    port = free_port()
    server = RustServer(port=port)
    async with aio.connect("bench", "127.0.0.1", port, reconnect=QUICK) as client:
        events = []
        client.on_event(events.append)
        news = client.subscribe("news")
        await client.serve("double", lambda message: 2 * message.payload)
        held = asyncio.Event()

        async def hold(message):
            held.set()
            await asyncio.sleep(STEP_SECONDS_MAX)

        await client.serve("hold", hold)
        asking = asyncio.create_task(client.request("hold", 0))
        await held.wait()
        server.kill()
        with pytest.raises(ConnectionError) as lost:
            await asking
        assert lost.value.code == "lost" and lost.value.may_be_executed
        await client.publish("news", "while it was away")
        server = RustServer(port=port)
        assert (await news.__anext__()).payload == "while it was away"
        assert (await client.request("double", 21)).payload == 42
        assert [event.name for event in events][0] == "disconnected"
        # There is no history, and so a gap.
        assert [event.name for event in events][-2:] == ["connected", "gap"]
    server.stop()


@in_a_loop
async def test_a_loss_without_reconnect_ends_everything():
    server = RustServer()
    client = await aio.connect("bench", **server.arguments, reconnect=False)
    news = client.subscribe("news")
    server.kill()
    await client.wait_closed()
    assert [message async for message in news] == []
    with pytest.raises(ConnectionError):
        await client.publish("news", 1)
    await client.close()


@in_a_loop
async def test_a_full_queue_holds_back_the_sender_and_not_the_loop():
    server = RustServer()
    async with aio.connect("bench", **server.arguments, queue_bytes_max=100_000, heartbeat=None) as client:
        server.signal(signal.SIGSTOP)
        sent = []

        async def flood():
            for number in range(300):
                await client.publish("flood", "x" * 100_000)
                sent.append(number)

        flooding = asyncio.create_task(flood())
        count = -1
        while not sent or count != len(sent):
            count = len(sent)
            await asyncio.sleep(0.3)
        assert 0 < len(sent) < 300
        server.signal(signal.SIGCONT)
        await flooding
        await client.flush(timeout=STEP_SECONDS_MAX)
    server.stop()


@in_a_loop
async def test_cancelled_while_it_connects(rust):
    stopped = RustServer()
    stopped.signal(signal.SIGSTOP)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(aio.connect("bench", **stopped.arguments, connect_timeout=1.0)._connect(), 0.1)
    stopped.stop()


@in_a_loop
async def test_it_talks_with_threads(rust):
    async with aio.connect("mixed", **rust.arguments) as client:
        with FrameworkClient("mixed", **rust.arguments) as other:

            @client.serve("square")
            async def square(message):
                return message.payload**2

            await client.ready()
            loop = asyncio.get_running_loop()
            assert (await loop.run_in_executor(None, other.send_request, "square", 7)).payload == 49


@pytest.mark.parametrize(
    "end",
    ["", "await client.close()", "raise SystemExit(0)", "asyncio.create_task(client.request('nobody', 0))"],
    ids=["open", "closed", "exit", "asking"],
)
def test_a_program_ends(rust, end):
    code = f"""
import asyncio
from ipc_framework import aio
async def main():
    client = await aio.connect("bench", port={rust.port})
    client.serve("held", print)
    news = client.subscribe("news")
    await client.ready()
    {end}
asyncio.run(main())
"""
    ended = run_program(code)
    assert ended.returncode == 0, ended.stderr
    assert "panicked" not in ended.stderr and "Fatal" not in ended.stderr


def test_a_forked_child_leaves_its_parents_connection_alone(rust):
    code = f"""
import asyncio, os
from ipc_framework import aio
async def main():
    async with aio.connect("bench", port={rust.port}) as client:
        pid = os.fork()
        if pid == 0:
            assert not client.connected
            try:
                await client.publish("news", 1)
            except ConnectionError:
                os._exit(7)
            os._exit(1)
        assert os.WEXITSTATUS(os.waitpid(pid, 0)[1]) == 7
        for number in range(100):
            assert (await client.request("echo", number)).payload == number
asyncio.run(main())
"""
    ended = run_program(code)
    assert ended.returncode == 0, ended.stderr


def test_uvloop(rust):
    async def main():
        async with aio.connect("bench", **rust.arguments) as client:
            answers = await asyncio.gather(*(client.request("echo", number) for number in range(100)))
            assert [answer.payload for answer in answers] == list(range(100))

    loop = uvloop.new_event_loop()
    loop.run_until_complete(main())
    loop.close()


@in_a_loop
async def test_what_waits_for_a_slow_reader_is_bounded_in_bytes(rust):
    async with aio.connect("bench", **rust.arguments) as reader, aio.connect("bench", **rust.arguments) as publisher:
        news = reader.subscribe("bytes", bytes_max=1 << 20)
        await reader.flush()

        async def publish(payloads):
            for payload in payloads:
                await publisher.publish("bytes", payload)
            await publisher.flush()

        numbers = [f"{number:100000}" for number in range(40)]
        await publish(["larger than all " * (1 << 17), *numbers])
        while news.missed < 40:
            await asyncio.sleep(0.01)
        assert len((await news.__anext__()).payload) > 1 << 20, "one message may be larger, if it is alone"
        # Room that was given back is used again.
        await publish(numbers)
        while news.missed < 70:
            await asyncio.sleep(0.01)
        assert [int((await news.__anext__()).payload) for _ in range(10)] == list(range(10))
