"""Waits of the asyncio client that are given up, and programs that use the loop's executor for themselves."""

import asyncio
import sys
import threading
import time

import pytest
from peers import STEP_SECONDS_MAX, run_program

from ipc_framework import FrameworkClient, aio
from ipc_framework.exceptions import ApplicationError, ConnectionError

UNANSWERED = """
import asyncio, socket, time
from ipc_framework import aio

# A listener whose queue is full: what comes next is neither accepted nor refused.
full = socket.socket()
full.bind(("127.0.0.1", 0))
full.listen(0)
waiting = [socket.socket() for _ in range(3)]
for one in waiting:
    one.setblocking(False)
    one.connect_ex(full.getsockname())

async def main():
    try:
        await asyncio.wait_for(aio.connect("bench", port=full.getsockname()[1], connect_timeout=60.0), 0.2)
    except asyncio.TimeoutError:
        print("given up")

begin = time.monotonic()
asyncio.run(main())
assert time.monotonic() - begin < 30
"""


def test_a_connect_that_is_given_up_holds_no_program():
    begin = time.monotonic()
    ended = run_program(UNANSWERED)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "given up\n", "")
    assert time.monotonic() - begin < 30


def test_a_client_needs_no_thread_of_the_loops_executor(rust):
    go = threading.Event()

    async def main():
        loop = asyncio.get_running_loop()
        # More than there are threads.
        blocked = [loop.run_in_executor(None, go.wait) for _ in range(100)]
        client = await aio.connect("busy", **rust.arguments)

        async def answer(message):
            return message.payload

        await client.serve("answer", answer)
        assert (await client.request("answer", 7)).payload == 7
        await client.stop_serving("answer")
        assert await client.close()
        go.set()
        await asyncio.gather(*blocked)

    try:
        asyncio.run(asyncio.wait_for(main(), STEP_SECONDS_MAX))
    finally:
        go.set()


def test_a_close_that_is_cancelled_closes_at_once(rust):
    async def main():
        requester = await aio.connect("cut", **rust.arguments)
        worker = await aio.connect("cut", **rust.arguments)
        begun, cleaned_up = asyncio.Event(), asyncio.Event()

        async def held(message):
            begun.set()
            try:
                await asyncio.sleep(1000)
            finally:
                cleaned_up.set()

        await worker.serve("held", held)
        asking = asyncio.ensure_future(requester.request("held", timeout=None))
        await begun.wait()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(worker.close(1000.0), 0.1)
        await asyncio.wait_for(worker.wait_closed(), STEP_SECONDS_MAX)
        await asyncio.wait_for(cleaned_up.wait(), STEP_SECONDS_MAX)
        assert not worker.connected
        with pytest.raises(Exception) as lost:
            await asyncio.wait_for(asking, STEP_SECONDS_MAX)
        assert lost.value.code == "worker_lost"
        await requester.close()

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task does not know whether it was cancelled itself")
def test_a_handler_that_awaits_what_was_cancelled_fails_as_any_other(rust):
    async def awaits(message):
        inner = asyncio.ensure_future(asyncio.sleep(1000))
        inner.cancel()
        await inner

    async def main():
        async with aio.connect("inner", **rust.arguments) as client:
            await client.serve("awaits", awaits)
            for _ in range(2):
                with pytest.raises(ApplicationError, match="CancelledError") as failed:
                    await client.request("awaits")
                assert failed.value.code == "handler_failed"

    asyncio.run(main())


def test_requests_in_flight_are_told_that_their_client_was_closed(rust):
    with FrameworkClient("told", **rust.arguments) as worker:
        begun, go = threading.Semaphore(0), threading.Event()

        def held(message):
            begun.release()
            go.wait(STEP_SECONDS_MAX)

        worker.serve("held", held, concurrency=2)
        client = FrameworkClient("told", **rust.arguments)
        assert client.connect()
        errors = []

        def ask():
            with pytest.raises(ConnectionError) as closed:
                client.send_request("held", 1, STEP_SECONDS_MAX)
            errors.append(closed.value)

        asking = threading.Thread(target=ask)
        asking.start()
        client.send_request_async("held", 1, lambda message: None, on_error=errors.append)
        for _ in range(2):
            assert begun.acquire(timeout=STEP_SECONDS_MAX)
        client.close()
        asking.join(STEP_SECONDS_MAX)
        go.set()
    assert [(error.code, error.may_be_executed) for error in errors] == [("closed", True)] * 2
