"""What the handlers of signals raise reaches the program, whatever a client does meanwhile."""

import asyncio
import gc
import itertools
import signal
import threading

import pytest
from peers import STEP_SECONDS_MAX, run_program

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


WHILE_NUMPY_IS_IMPORTED = """
import asyncio
import signal
import sys

from ipc_framework import FrameworkClient, Tensor, aio

GIVEN = Tensor("f32", [2, 2], bytes(16))


class TimeLimit(KIND):
    pass


def raises(*_):
    raise TimeLimit


class Finder:
    def find_spec(self, name, *_):
        if name == MODULE:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGALRM)
            for _ in range(1_000):
                pass


def has_passed(loop, context):
    print(type(context["exception"]).__name__)
    loop.stop()


async def ask():
    async with aio.connect("bench", port=PORT) as client:
        asyncio.get_running_loop().set_exception_handler(has_passed)
        await client.request("echo", GIVEN, timeout=10)


signal.signal(signal.SIGALRM, raises)
sys.meta_path.insert(0, Finder())
try:
    if IS_ASYNC:
        loop = asyncio.new_event_loop()
        task = loop.create_task(ask())
        loop.run_until_complete(task)
    else:
        with FrameworkClient("bench", port=PORT) as client:
            client.send_request("echo", GIVEN)
except TimeLimit:
    print("TimeLimit")
except RuntimeError as error:
    assert "stopped" in str(error), error
with FrameworkClient("bench", port=PORT) as client:
    print(type(client.send_request("echo", GIVEN).payload).__name__)
"""


@pytest.mark.parametrize("kind", ["BaseException", "Exception", "ValueError"])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_of_a_signal_handler_while_numpy_is_imported_reaches_the_program(rust, kind, is_async):
    given = f"KIND, MODULE, PORT, IS_ASYNC = {kind}, 'numpy', {rust.port}, {is_async}\n"
    ended = run_program(given + WHILE_NUMPY_IS_IMPORTED)
    assert ended.stdout.split() == ["TimeLimit", "ndarray"], ended.stderr


DURING_DLPACK = """
import signal

from ipc_framework import FrameworkClient


class TimeLimit(Exception):
    pass


def raises(*_):
    raise TimeLimit


class Tensor:
    def __dlpack__(self, **_):
        signal.raise_signal(signal.SIGALRM)
        for _ in range(1_000):
            pass

    def __dlpack_device__(self):
        return (1, 0)


signal.signal(signal.SIGALRM, raises)
with FrameworkClient("bench", port=PORT) as client:
    for payload in (Tensor(), {"a": [Tensor(), {1}]}, [{1}, Tensor()]):
        try:
            client.send_request("echo", payload)
        except TimeLimit:
            print("TimeLimit")
        except Exception as error:
            print(type(error).__name__)
"""


def test_an_exception_of_a_signal_handler_while_a_payload_is_encoded_reaches_the_program(rust):
    ended = run_program(f"PORT = {rust.port}\n" + DURING_DLPACK)
    assert ended.stdout.split() == ["TimeLimit", "TimeLimit", "SerializationError"], ended.stderr
