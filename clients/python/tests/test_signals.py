"""What the handlers of signals raise reaches the program, whatever a client does meanwhile."""

import asyncio
import gc
import itertools
import signal
import threading

import pytest
from peers import STEP_SECONDS_MAX

from ipc_framework import FrameworkClient, aio

PAYLOAD = [{"number": number, "text": str(number)} for number in range(300)]


class TimeLimit(Exception):
    """Such as that of Celery, and of `signal.alarm` in many programs."""


@pytest.fixture
def alarm():
    """Raises an exception in this thread after so many seconds."""
    former = signal.getsignal(signal.SIGALRM)
    # The interpreter ignores what is raised while it calls back for an object that it collects.
    gc.collect()
    gc.disable()

    def begin(seconds, error):
        def raises(*_):
            raise error

        signal.signal(signal.SIGALRM, raises)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield begin
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)
    gc.enable()


@pytest.mark.parametrize("error", [TimeLimit, SystemExit, KeyboardInterrupt])
def test_an_exception_of_a_signal_handler_is_no_error_of_a_message(rust, alarm, error):
    with FrameworkClient("signals", **rust.arguments) as client:
        client.serve("big", lambda message: message.payload)
        # At different points of a request and its answer.
        for turn in range(100):
            with pytest.raises(error):
                alarm(0.001 + turn * 0.00001, error)
                for _ in itertools.count():
                    client.send_request("big", PAYLOAD, STEP_SECONDS_MAX)
        assert client.send_request("big", 1).payload == 1


def test_ctrl_c_while_a_coroutine_handles_a_request_ends_the_loop(rust, alarm):
    loop = asyncio.new_event_loop()
    answers = []

    async def main():
        worker = await aio.connect("ctrl-c", **rust.arguments)

        async def computes(message):
            alarm(0.01, KeyboardInterrupt)
            while True:
                pass

        await worker.serve("computes", computes)
        asker = threading.Thread(target=ask)
        asker.start()
        await worker.wait_closed()

    def ask():
        with FrameworkClient("ctrl-c", **rust.arguments) as client:
            answers.append(client.send_request("computes", 1, STEP_SECONDS_MAX).payload)

    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    for thread in threading.enumerate():
        if thread.name.endswith("(ask)"):
            thread.join(STEP_SECONDS_MAX)
    assert [answer["code"] for answer in answers] == ["handler_failed"]
