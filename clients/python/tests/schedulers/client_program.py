"""Programs of the client under gevent or eventlet: `client_program.py gevent|eventlet PORT UNIX PROCESS`."""

from patched import start_ticking, ticks  # Before anything else.

import contextvars
import os
import signal
import sys
import threading
import time

from ipc_framework import FrameworkClient, _dispatch

port = int(sys.argv[2])


def goes_on(what):
    """Whether other greenlets run while `what` is done, which takes a third of a second at least."""
    before = len(ticks)
    done = what()
    assert len(ticks) - before >= 10, (what, len(ticks) - before)
    return done


def eventually(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# "Threads" are greenlets here.
start_ticking()
client = FrameworkClient("bench", "127.0.0.1", port)
worker = FrameworkClient("bench", "127.0.0.1", port)
assert client.connect() and worker.connect()
assert client.send_request("echo", {"n": 1}, 5.0).payload == {"n": 1}

# A plain function is called by greenlets, one for each request up to `concurrency`, and yields as others do.
running = []


@worker.serve("slow", concurrency=3)
def slow(request):
    running.append(1)
    time.sleep(0.4)
    most = len(running)
    running.remove(1)
    return most


assert goes_on(lambda: client.send_request("slow", 1, 5.0)).payload == 1
most = []
for number in range(6):
    client.send_request_async("slow", number, lambda message: most.append(message.payload))
eventually(lambda: len(most) == 6)
assert max(most) == 3, most
assert goes_on(lambda: client.send_request("slow", 1, 0.35)) is None, "no answer in time"

# A coroutine runs on a real thread with a loop.
trace = contextvars.ContextVar("trace", default="none")
trace.set("whoever serves")


@worker.serve("later", concurrency=2)
async def later(request):
    import asyncio

    await asyncio.sleep(0.4)
    return [request.payload, trace.get()]


assert goes_on(lambda: client.send_request("later", 7, 5.0)).payload == [7, "whoever serves"]
worker.serve("mixed", lambda request: later(request))
assert goes_on(lambda: client.send_request("mixed", 8, 5.0)).payload == [8, "whoever serves"]
assert client.send_request("nobody", 1).payload["code"] == "no_handler"

# So do streams: their generators, whoever reads them, and whoever waits for credit or for the end of the request.
closed, told = [], []


@worker.serve("parts", concurrency=3)
def parts(request):
    try:
        for number in range(request.payload):
            if number < 4:
                time.sleep(0.1)
            yield number
    finally:
        closed.append(1)


@worker.serve("later parts")
async def later_parts(request):
    import asyncio

    for number in range(request.payload):
        await asyncio.sleep(0.1)
        yield number


@worker.serve("waits")
def waits(request):
    told.append(request.cancelled.wait(30.0))


for channel in ("parts", "later parts"):
    assert goes_on(lambda: [part.payload for part in client.stream(channel, 4)]) == [0, 1, 2, 3], channel
assert len(closed) == 1
stuck = client.stream("parts", 1_000_000)
assert next(stuck).payload == 0
assert goes_on(lambda: time.sleep(0.5)) is None and len(closed) == 1
stuck.close()
eventually(lambda: len(closed) == 2)
assert goes_on(lambda: client.send_request("waits", 1, 0.4)) is None
eventually(lambda: told == [True])

# A handler may ask, and runs in the same real thread as the rest of the program.
heard = []
here = threading.get_ident()


def listen(message):
    heard.append(client.send_request("echo", message.payload, 5.0).payload)


client.subscribe("news", listen)
assert client.flush()
client.publish("news", 1)
client.publish("news", 2)
eventually(lambda: heard == [1, 2])
assert client.wait_for_message("silence", 0.05) is None
assert goes_on(lambda: client.wait(0.4)) is False

# What a slow handler has not taken is bounded, and the greenlet that reads goes on.
_dispatch.READ_BYTES_MAX = 1 << 20
client.subscribe("much", lambda message: time.sleep(0.2))
assert client.flush()
for number in range(100):
    worker.publish("much", "x" * 65_536)
assert worker.flush() and client.flush()
eventually(lambda: client.missed > 50)
client.unsubscribe("much")

# Patterns, last values and acknowledged publications.
begun, go, prices, matched = threading.Event(), threading.Event(), [], []


def slow_price(message):
    begun.set()
    assert go.wait(30)
    prices.append(message.payload)


assert worker.publish("prices.kept", 7, acknowledged=True, retain=True) is None
client.subscribe("prices.kept", matched.append, last=1)
eventually(lambda: [message.payload for message in matched] == [7])
client.subscribe_pattern("prices.*", slow_price, conflate=True)
client.subscribe_pattern("prices.>", matched.append)
assert client.flush()
assert worker.publish("prices.tea", "first", acknowledged=True) is None
eventually(begun.is_set)
for number in range(1_000):
    worker.publish("prices.tea", number)
    worker.publish("prices.salt", -number)
assert worker.flush() and client.flush()
go.set()
eventually(lambda: len(matched) == 2_002 and len(prices) == 3)
# The messages for the greenlet that calls handlers are replaced as well.
assert prices == ["first", 999, -999], prices
client.unsubscribe_pattern("prices.>")
client.unsubscribe_pattern("prices.*")

# An answer that has to wait for room lets others go on, too.
begun, go, sizes = [], threading.Event(), []
options = {"connection_timeout": 60.0, "heartbeat": None, "queue_bytes_max": 100_000}
full = FrameworkClient("bench", unix=sys.argv[3], **options)
assert full.connect()


@full.serve("large", concurrency=20)
def large(request):
    begun.append(1)
    assert go.wait(30)
    return "x" * 100_000


for number in range(20):
    client.send_request_async("large", number, lambda message: sizes.append(len(message.payload)))
eventually(lambda: len(begun) == 20)
os.kill(int(sys.argv[4]), signal.SIGSTOP)
go.set()
eventually(lambda: full._native.is_full)
goes_on(lambda: time.sleep(0.5))
os.kill(int(sys.argv[4]), signal.SIGCONT)
eventually(lambda: sizes == [100_000] * 20)
assert full.close(5.0)

# What is in hand is answered by an end that waits for it.
answers = []
client.send_request_async("slow", 1, lambda message: answers.append(message.payload))
client.send_request_async("later", 2, lambda message: answers.append(message.payload))
eventually(lambda: len(running) == 1)
assert goes_on(lambda: worker.close(5.0))
eventually(lambda: len(answers) == 2)
assert client.send_request("slow", 1).payload["code"] == "no_handler"

# An address at which nobody answers does not stop others either.
far = FrameworkClient("bench", "127.0.0.1", port, reconnect=False)
far.connect()
far.disconnect()
assert client.ping()
client.disconnect()
assert client.connect() and client.ping()
client.disconnect()
print("all is well", flush=True)
