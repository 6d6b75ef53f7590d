"""A server under gevent or eventlet: `server_program.py gevent|eventlet WORKERS`."""

from patched import start_ticking, ticks  # Before anything else.

import sys
import threading
import time

from ipc_framework import FrameworkClient, FrameworkServer, MessageType

workers = int(sys.argv[2])

start_ticking()
server = FrameworkServer("127.0.0.1", 0, workers=workers)
app = server.create_application("bench")


@app.create_channel("slow").serve
def slow(request):
    time.sleep(0.3)
    return threading.get_ident() != 0


@app.create_channel("later").serve
async def later(request):
    import asyncio

    await asyncio.sleep(0.3)
    return "later"


def note(request):
    server.send_to_connection(None, request.create_response("noted"))


closed = []


@app.create_channel("parts").serve
def parts(request):
    try:
        for number in range(request.payload):
            if number < 3:
                time.sleep(0.1)
            yield number
    finally:
        closed.append(1)


app.create_channel("note").set_handler(MessageType.REQUEST, note)
server.start()
client = FrameworkClient("bench", "127.0.0.1", server.port)
assert client.connect()
before = len(ticks)
assert client.send_request("slow", 1, 5.0).payload is True
assert client.send_request("later", 1, 5.0).payload == "later"
assert len(ticks) - before >= 20, "other greenlets go on"
before = len(ticks)
assert [part.payload for part in client.stream("parts", 3)] == [0, 1, 2]
with client.stream("parts", 1_000_000) as stuck:
    assert next(stuck).payload == 0
    # The generator waits for credit.
    time.sleep(0.4)
assert len(ticks) - before >= 20, "other greenlets go on"
while len(closed) < 2:
    time.sleep(0.01)
assert client.send_request("note", 1, 5.0).payload == "noted"
assert server.get_stats()["total_connections"] == 1
begin, answers = time.monotonic(), []
for number in range(4):
    client.send_request_async("slow", number, answers.append)
while len(answers) < 4:
    time.sleep(0.01)
took = time.monotonic() - begin
assert workers < 2 or took < 1.1, took
# A drain answers what is in hand.
client.send_request_async("slow", 1, answers.append)
client.send_request_async("later", 1, answers.append)
time.sleep(0.1)
server.stop()
time.sleep(0.1)
assert len(answers) == 6, answers
client.disconnect()
server.port = 0
server.start()
server.stop()
print("all is well", flush=True)
