"""Python clients beside those of other brokers: `clients.py WORK CLIENT ADDRESS SECONDS SERVER_CPU`.

Prints the figures of one repetition as JSON. The client under test is this process, which the harness pins. What sends
requests to a worker, or receives publications, is a process of its own on the server's processor; it speaks the bare
protocol, so that it is never the slower side.
"""

import asyncio
import itertools
import json
import os
import resource
import select
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time

WORK, CLIENT, ADDRESS, SECONDS, SERVER_CPU = sys.argv[1:6]
SECONDS = float(SECONDS)
WARM_UP = 0.15 * SECONDS
HOST, _, PORT = ADDRESS.rpartition(":")
IS_UNIX = not HOST
#: Without it a program of nats-py passes bytes on as they are.
USES_JSON = CLIENT != "nats-py-bytes"
#: The window of what has several requests in flight.
IN_FLIGHT = 64
TEXT = "x" * 126
MEGABYTE = "x" * (1 << 20)
HEADER = struct.Struct(">I")
#: Imports of one repetition, each by a fresh process.
IMPORTS = 5
IMPORT = """
import time

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096 / 1e6

before, begin = resident(), time.perf_counter()
from ipc_framework import FrameworkClient
print(1e3 * (time.perf_counter() - begin), resident() - before)
"""


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def latencies(ask, is_right):
    """Asks one request after another."""
    begin, samples, cpu = time.perf_counter(), [], cpu_seconds()
    while (now := time.perf_counter()) < begin + SECONDS:
        if now < begin + WARM_UP:
            samples.clear()
            cpu = cpu_seconds()
        answer = ask()
        samples.append(time.perf_counter() - now)
        if not is_right(answer):
            sys.exit(f"the answer is {answer!r:.200}")
    cpu = cpu_seconds() - cpu
    return {"p50_us": 1e6 * statistics.median(samples), "python_cpu_us": 1e6 * cpu / len(samples)}


class Meter:
    """Counts what is done, and the processor time that it takes."""

    def __init__(self):
        self.done = 0

    async def figures(self):
        await asyncio.sleep(WARM_UP)
        begin, cpu, done = time.perf_counter(), cpu_seconds(), self.done
        await asyncio.sleep(SECONDS)
        elapsed, cpu, done = time.perf_counter() - begin, cpu_seconds() - cpu, self.done - done
        if not done:
            sys.exit("nothing was done")
        return {"per_second": done / elapsed, "python_cpu_us": 1e6 * cpu / done}


# Frames of this project's protocol, written by hand.


def frame(kind, channel, payload, message_id):
    """Returns a frame, as a client without a library writes it."""
    message = {
        "message_id": message_id,
        "app_id": "bench",
        "channel_id": channel,
        "message_type": kind,
        "payload": payload,
        "timestamp": time.time(),
        "reply_to": None,
    }
    body = json.dumps(message).encode()
    return HEADER.pack(len(body)) + body


def dial():
    if IS_UNIX:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(PORT)
        return connection
    connection = socket.create_connection((HOST, int(PORT)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive_exactly(connection, count):
    received = connection.recv(count)
    while len(received) < count:
        received += connection.recv(count - len(received))
    return received


def exchange(connection, sent):
    connection.sendall(sent)
    (count,) = HEADER.unpack(receive_exactly(connection, HEADER.size))
    return json.loads(receive_exactly(connection, count))


def introduced():
    """Returns a socket whose connection this project's server knows."""
    connection = dial()
    connect = {"action": "connect", "connection_id": f"frames-{os.getpid()}"}
    exchange(connection, frame("request", "system", connect, "connect"))
    return connection


# One request after the other.


def blocking(channel="echo", text=TEXT):
    from ipc_framework import FrameworkClient

    address = {"unix": PORT} if IS_UNIX else {"host": HOST, "port": int(PORT)}
    with FrameworkClient("bench", **address) as client:
        return latencies(lambda: client.send_request(channel, text), lambda answer: answer.payload == text)


def blocking_frames():
    connection, ids = introduced(), (f"{number:036}" for number in itertools.count())
    return latencies(
        lambda: exchange(connection, frame("request", "echo", TEXT, next(ids))),
        lambda answer: answer["payload"] == TEXT,
    )


def megabyte_zeromq():
    import zmq

    connection = zmq.Context().socket(zmq.REQ)
    connection.connect(f"tcp://{ADDRESS}")

    def ask():
        connection.send_json(MEGABYTE)
        return connection.recv_json()

    return latencies(ask, lambda answer: answer == MEGABYTE)


# The same with bytes, as each client takes them.


DATA = b"x" * (1 << 20)


def is_data(answer):
    """Compares ends and length: comparing all would be a good part of the time of the fastest."""
    return len(answer) == len(DATA) and answer[:8] == DATA[:8] and answer[-8:] == DATA[-8:]


def bytes_client():
    from ipc_framework import FrameworkClient

    with FrameworkClient("bench", HOST, int(PORT)) as client:
        return latencies(lambda: client.send_request("echo", DATA), lambda answer: is_data(answer.payload))


def bytes_redis():
    import redis

    connection = redis.Redis(HOST, int(PORT))
    return latencies(lambda: connection.echo(DATA), is_data)


def bytes_zeromq():
    import zmq

    connection = zmq.Context().socket(zmq.REQ)
    connection.connect(f"tcp://{ADDRESS}")

    def ask():
        connection.send(DATA)
        return connection.recv()

    return latencies(ask, is_data)


def bytes_grpc():
    import grpc

    with grpc.insecure_channel(ADDRESS) as channel:
        echo = channel.unary_unary("/perf.Streams/Echo")
        return latencies(lambda: echo(DATA), is_data)


async def bytes_nats():
    """A message to a subject of its own, which is one hop as with the others."""
    import nats

    client = await nats.connect(f"nats://{ADDRESS}")
    own = await client.subscribe("own")
    begin, samples, cpu = time.perf_counter(), [], cpu_seconds()
    while (now := time.perf_counter()) < begin + SECONDS:
        if now < begin + WARM_UP:
            samples.clear()
            cpu = cpu_seconds()
        await client.publish("own", DATA)
        answer = (await own.next_msg()).data
        samples.append(time.perf_counter() - now)
        if not is_data(answer):
            sys.exit("the answer is another")
    cpu = cpu_seconds() - cpu
    await client.close()
    return {"p50_us": 1e6 * statistics.median(samples), "python_cpu_us": 1e6 * cpu / len(samples)}


# Many requests at once, on an event loop.


async def window(ask):
    meter = Meter()

    async def one():
        while True:
            if await ask() != TEXT:
                sys.exit("an answer is wrong")
            meter.done += 1

    tasks = [asyncio.ensure_future(one()) for _ in range(IN_FLIGHT)]
    figures = await meter.figures()
    for task in tasks:
        task.cancel()
    return figures


async def aio_client():
    from ipc_framework import aio

    async with aio.connect("bench", HOST, int(PORT)) as client:

        async def ask():
            return (await client.request("echo", TEXT)).payload

        return await window(ask)


async def aio_streams():
    """Streams of the standard library to an echo without a protocol: answers come in the order of their requests."""
    reader, writer = await asyncio.open_connection(HOST, int(PORT))
    loop, waiting = asyncio.get_running_loop(), asyncio.Queue()

    async def read():
        while True:
            future = await waiting.get()
            (count,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            future.set_result(json.loads(await reader.readexactly(count)))

    async def ask():
        body = json.dumps(TEXT).encode()
        writer.write(HEADER.pack(len(body)) + body)
        future = loop.create_future()
        waiting.put_nowait(future)
        return await future

    reading = asyncio.ensure_future(read())
    figures = await window(ask)
    reading.cancel()
    return figures


# Workers, and handlers of a server.


def helper(part, address=ADDRESS):
    """Starts the other side of the measured client, as a process on the server's processor."""
    command = [sys.executable, __file__, part, CLIENT, address, str(SECONDS), SERVER_CPU]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def answers(meter, address=ADDRESS):
    """Measures the answering of requests."""
    requester = helper("requester", address)
    try:
        figures = await meter.figures()
        if requester.poll() is not None:
            sys.exit("the requester has ended")
        return figures
    finally:
        requester.kill()


def echo(meter):
    """Returns a handler, which is a coroutine function for a client with such a name."""

    def plain(request):
        meter.done += 1
        return request.payload

    async def coroutine(request):
        meter.done += 1
        return request.payload

    return coroutine if CLIENT.endswith("async") else plain


def worker():
    from ipc_framework import FrameworkClient

    meter = Meter()
    with FrameworkClient("bench", HOST, int(PORT)) as client:
        client.serve("worked", echo(meter))
        return asyncio.run(answers(meter))


def handler():
    from ipc_framework import FrameworkServer

    meter = Meter()
    server = FrameworkServer("127.0.0.1", 0)
    server.create_application("bench").create_channel("worked").serve(echo(meter))
    with server:
        return asyncio.run(answers(meter, f"127.0.0.1:{server.port}"))


async def worker_nats():
    import nats

    meter = Meter()

    async def respond(message):
        meter.done += 1
        data = message.data
        await message.respond(json.dumps(json.loads(data)).encode() if USES_JSON else data)

    client = await nats.connect(f"nats://{ADDRESS}")
    await client.subscribe("worked", cb=respond)
    await client.flush()
    figures = await answers(meter)
    await client.drain()
    return figures


def request():
    """Sends requests to whoever answers them, and checks the answers."""
    text = json.dumps(TEXT).encode()
    if CLIENT.startswith("nats-py"):
        connection = dial()
        connection.sendall(b"CONNECT {\"verbose\":false}\r\nSUB answers 1\r\n")
        requests = [b"PUB worked answers %d\r\n%b\r\n" % (len(text), text)]
        answer = b"MSG answers 1 %d\r\n%b\r\n" % (len(text), text)
    else:
        connection, answer = introduced(), None
        requests = [frame("request", "worked", TEXT, f"{number:036}") for number in range(2 * IN_FLIGHT)]
    asked, received = itertools.cycle(requests), b""
    connection.sendall(b"".join(itertools.islice(asked, IN_FLIGHT)))
    while True:
        received += connection.recv(1 << 16)
        if received.startswith((b"INFO", b"PING")):
            received = received[received.index(b"\n") + 1 :]
        count, position = frames_in(received, answer, text)
        received = received[position:]
        connection.sendall(b"".join(itertools.islice(asked, count)))


def frames_in(received, message, text):
    """Returns the number of whole messages with the text, and their length together."""
    count = position = 0
    if message is not None:
        count = len(received) // len(message)
        if received[: count * len(message)] != message * count:
            sys.exit(f"a peer sent {received[:200]!r}")
        return count, count * len(message)
    while len(received) >= position + HEADER.size:
        end = position + HEADER.size + HEADER.unpack_from(received, position)[0]
        if end > len(received):
            break
        if received.find(text, position, end) < 0:
            sys.exit(f"a peer sent {received[position:end]!r}")
        count, position = count + 1, end
    return count, position


# Publishers.


def publish_client():
    from ipc_framework import FrameworkClient

    subscriber = ready(helper("subscriber"))
    with FrameworkClient("bench", HOST, int(PORT)) as client:
        begin, cpu, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() < begin + SECONDS:
            client.publish("news", TEXT)
            count += 1
        client.flush()
        return published(subscriber, begin, cpu, count)


async def publish_nats():
    import nats

    subscriber = ready(helper("subscriber"))
    client, data = await nats.connect(f"nats://{ADDRESS}"), json.dumps(TEXT).encode()
    begin, cpu, count = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() < begin + SECONDS:
        await client.publish("news", json.dumps(TEXT).encode() if USES_JSON else data)
        count += 1
    await client.flush()
    figures = published(subscriber, begin, cpu, count)
    await client.close()
    return figures


def ready(subscriber):
    if subscriber.stdout.readline() != "subscribed\n":
        sys.exit("the subscriber does not subscribe")
    return subscriber


def published(subscriber, begin, cpu, count):
    cpu = cpu_seconds() - cpu
    print(count, file=subscriber.stdin, flush=True)
    if subscriber.stdout.readline() != "received\n":
        sys.exit("the subscriber did not get all publications")
    elapsed = time.perf_counter() - begin
    subscriber.wait()
    return {"per_second": count / elapsed, "python_cpu_us": 1e6 * cpu / count}


def subscribe():
    """Counts publications until there are as many as standard input says."""
    text, count, expected, received = json.dumps(TEXT).encode(), 0, None, b""
    if CLIENT.startswith("nats-py"):
        connection, message = dial(), b"MSG news 1 %d\r\n%b\r\n" % (len(text), text)
        connection.sendall(b"CONNECT {\"verbose\":false}\r\nSUB news 1\r\nPING\r\n")
        while not received.endswith(b"PONG\r\n"):
            received += connection.recv(1 << 16)
        received = b""
    else:
        connection, message = introduced(), None
        payload = {"connection_id": f"frames-{os.getpid()}", "ack": True}
        exchange(connection, frame("subscribe", "news", payload, "subscribe"))
    print("subscribed", flush=True)
    while expected is None or count < expected:
        readable, _, _ = select.select([connection, sys.stdin] if expected is None else [connection], [], [], 10)
        if not readable:
            sys.exit(f"{count} of {expected} publications came")
        if connection in readable:
            received += connection.recv(1 << 18)
            if received.startswith(b"PING"):
                received = received[received.index(b"\n") + 1 :]
                connection.sendall(b"PONG\r\n")
            more, position = frames_in(received, message, text)
            count, received = count + more, received[position:]
        if sys.stdin in readable:
            expected = int(sys.stdin.readline())
    print("received", flush=True)


# The import.


def imported():
    runs = [subprocess.check_output([sys.executable, "-c", IMPORT], text=True) for _ in range(IMPORTS + 1)]
    # The first one may compile.
    found = [[float(word) for word in run.split()] for run in runs[1:]]
    milliseconds, megabytes = zip(*found)
    return {"import_ms": statistics.median(milliseconds), "import_megabytes": statistics.median(megabytes)}


WORKS = {
    ("blocking", "client"): blocking,
    ("blocking", "client-unix"): blocking,
    ("blocking", "frames"): blocking_frames,
    ("blocking", "frames-unix"): blocking_frames,
    ("megabyte", "client"): lambda: blocking(text=MEGABYTE),
    ("megabyte", "pyzmq"): megabyte_zeromq,
    ("bytes", "client"): bytes_client,
    ("bytes", "redis-py"): bytes_redis,
    ("bytes", "nats-py"): lambda: asyncio.run(bytes_nats()),
    ("bytes", "pyzmq"): bytes_zeromq,
    ("bytes", "grpcio"): bytes_grpc,
    ("aio", "client"): lambda: asyncio.run(aio_client()),
    ("aio", "streams"): lambda: asyncio.run(aio_streams()),
    ("worker", "serve"): worker,
    ("worker", "serve-async"): worker,
    ("worker", "nats-py"): lambda: asyncio.run(worker_nats()),
    ("worker", "nats-py-bytes"): lambda: asyncio.run(worker_nats()),
    ("handler", "plain"): handler,
    ("handler", "async"): handler,
    ("publish", "client"): publish_client,
    ("publish", "nats-py"): lambda: asyncio.run(publish_nats()),
    ("publish", "nats-py-bytes"): lambda: asyncio.run(publish_nats()),
    ("import", "python"): imported,
    ("import", "published"): imported,
}

if WORK in ("requester", "subscriber"):
    os.sched_setaffinity(0, {int(SERVER_CPU)})
    request() if WORK == "requester" else subscribe()
else:
    print(json.dumps(WORKS[WORK, CLIENT]()))
