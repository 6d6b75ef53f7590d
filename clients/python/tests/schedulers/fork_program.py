"""A client and a server that fork under gevent or eventlet: `fork_program.py gevent|eventlet`."""

from patched import scheduler  # Before anything else.

import os
import signal
import time

from ipc_framework import FrameworkClient, FrameworkServer


def sockets(process_id):
    folder = f"/proc/{process_id}/fd"
    names = (os.path.realpath(f"{folder}/{descriptor}") for descriptor in os.listdir(folder))
    return {name for name in names if "socket:" in name}


server = FrameworkServer("127.0.0.1", 0, workers=2)
server.create_application("bench").create_channel("echo").serve(lambda request: request.payload)
server.start()
client = FrameworkClient("bench", "127.0.0.1", server.port)
assert client.connect()
# The socket of the connection is known by the duplicate that a program gets.
with client.socket as duplicate:
    of_connection = os.readlink(f"/proc/self/fd/{duplicate.fileno()}")


@client.serve("plain")
def plain(request):
    return request.payload


@client.serve("later")
async def later(request):
    return request.payload


assert client.send_request("later", 1, 5.0).payload == 1
assert client.send_request("plain", 1, 5.0).payload == 1
child = os.fork()
if child == 0:
    if scheduler == "gevent":
        # The copies of the parent's greenlets run here.
        time.sleep(1000)
    else:
        # The hub of eventlet shares the parent's epoll, and must not run.
        signal.pause()
    os._exit(1)
try:
    time.sleep(0.2)
    assert not any(name.endswith(of_connection) for name in sockets(child)), sockets(child)
    for number in range(20):
        assert client.send_request("echo", number, 5.0).payload == number
        assert client.send_request("later", number, 5.0).payload == number
    begin = time.monotonic()
    assert client.close(5.0)
    server.stop()
    took = time.monotonic() - begin
    assert took < 3.0, took
finally:
    os.kill(child, signal.SIGKILL)
print("all is well", flush=True)
