"""A process that forked ends, and its child lives on: the other ends notice at once."""

import os
import signal
import sys

import pytest
from peers import OwnServer, Process, RustServer, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient

CHILD = """
import multiprocessing, os, time
def fork():
    # The fork is where others fork: with `multiprocessing`, and threads at work.
    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    helper.start()
    print("forked", helper.pid, flush=True)
"""
THREADS = """
from ipc_framework import FrameworkClient
worker = FrameworkClient({app!r}, **{arguments})
assert worker.connect()
worker.serve("job", lambda request: "done")
fork()
time.sleep(1000)
"""
AIO = """
import asyncio
from ipc_framework import aio
async def main():
    worker = await aio.connect({app!r}, **{arguments})
    await worker.serve("job", lambda request: "done")
    fork()
    await asyncio.sleep(1000)
asyncio.run(main())
"""
POOL = """
from concurrent.futures import ProcessPoolExecutor
from ipc_framework import FrameworkClient
worker = FrameworkClient({app!r}, **{arguments})
assert worker.connect()
worker.serve("job", lambda request: "done")
pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
print("forked", pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 1000)
time.sleep(1000)
"""
IN_HANDLER = """
from ipc_framework import FrameworkClient
worker = FrameworkClient({app!r}, **{arguments})
assert worker.connect()
def job(request):
    if request.payload == "fork": fork()
    return "done"
worker.serve("job", job)
asker = FrameworkClient({app!r}, **{arguments})
assert asker.connect()
assert asker.send_request("job", "fork").payload == "done"
asker.close()
time.sleep(1000)
"""


@pytest.fixture(scope="module", params=[RustServer, OwnServer])
def server(request):
    started = request.param()
    yield started
    started.stop()


@pytest.mark.parametrize("program", [THREADS, AIO, POOL, IN_HANDLER], ids=["threads", "aio", "pool", "in a handler"])
def test_a_worker_that_is_killed_is_lost_although_its_child_lives(server, request, program):
    app = request.node.name
    code = CHILD + program.format(app=app, arguments=server.arguments)
    worker = Process(sys.executable, "-W", "ignore::DeprecationWarning", "-c", code)
    (found,) = worker.expect(r"forked (\d+)")
    child = int(found[1])
    try:
        with FrameworkClient(app, **server.arguments) as client:
            assert client.send_request("job", 1, STEP_SECONDS_MAX).payload == "done"
            worker.signal(signal.SIGKILL)
            worker.process.wait(STEP_SECONDS_MAX)
            os.kill(child, 0)
            eventually("it is lost", lambda: client.send_request("job", 1).payload["code"] == "no_handler")
    finally:
        os.kill(child, signal.SIGKILL)
        worker.kill()


SERVER = """
from ipc_framework import FrameworkServer
server = FrameworkServer("127.0.0.1", 0, unix={unix!r})
server.create_application("bench").create_channel("echo").serve(lambda request: request.payload)
server.start()
print(f"listening on 127.0.0.1:{{server.port}} ", flush=True)
input()
fork()
time.sleep(1000)
"""


@pytest.mark.parametrize("of_client", ["tcp", "unix"])
def test_a_server_that_is_killed_is_gone_although_its_child_lives(tmp_path, of_client):
    unix = str(tmp_path / "ipc.sock")
    server = Process(sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILD + SERVER.format(unix=unix))
    (found,) = server.expect(r"listening on 127.0.0.1:(\d+)")
    port, child = int(found[1]), None
    address = {"host": "127.0.0.1", "port": port} if of_client == "tcp" else {"unix": unix}
    events = []
    client = FrameworkClient("bench", **address, reconnect=False, heartbeat=None)
    client.on_event(lambda event: events.append(event.name))
    try:
        assert client.connect()
        server.type_line("")
        (forked,) = server.expect(r"forked (\d+)")
        child = int(forked[1])
        assert client.send_request("echo", 1).payload == 1
        server.signal(signal.SIGKILL)
        server.process.wait(STEP_SECONDS_MAX)
        os.kill(child, 0)
        eventually("the client notices", lambda: "disconnected" in events)
        later = FrameworkClient("bench", **address)
        assert not later.connect() and later.last_error.code == "unreachable"
    finally:
        client.close()
        # First the child, which holds the other end of the pipe that is read to its end.
        if child is not None:
            os.kill(child, signal.SIGKILL)
        server.kill()


BURSTS = """
import multiprocessing
from ipc_framework import FrameworkClient
def publish(child):
    client = FrameworkClient("bench", **{arguments})
    assert client.connect()
    for at in range(100): client.publish("bursts", [child, at])
children = [multiprocessing.get_context("fork").Process(target=publish, args=(child,)) for child in range(20)]
for child in children: child.start()
for child in children: child.join()
print("all have ended", flush=True)
"""


def test_a_child_of_multiprocessing_that_returns_has_sent_all(rust):
    # Such a child ends by `os._exit`, without what `atexit` knows.
    with FrameworkClient("bench", **rust.arguments) as client:
        heard = []
        client.subscribe("bursts", lambda message: heard.append(tuple(message.payload)))
        assert client.ping(timeout=STEP_SECONDS_MAX)
        code = BURSTS.format(arguments=rust.arguments)
        program = Process(sys.executable, "-W", "ignore::DeprecationWarning", "-c", code)
        program.expect("all have ended")
        eventually("all publications", lambda: len(heard) == 2000)
        assert len(set(heard)) == 2000
        program.kill()


def test_a_child_keeps_none_of_its_parents_sockets(rust):
    code = f"""
import asyncio, os
from ipc_framework import FrameworkClient, FrameworkServer, aio
def sockets():
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink("/proc/self/fd/" + descriptor)
        except FileNotFoundError:
            continue
        if name.startswith("socket:"):
            found.add(name)
    return found
before = sockets()
server = FrameworkServer("localhost", 0)
server.start()
clients = [FrameworkClient("bench", port={rust.port}), FrameworkClient("bench", port=server.port)]
assert all(client.connect() for client in clients)
clients[1].disconnect() or clients[1].connect()
there = sockets() - before
assert len(there) >= 5, there
pid = os.fork()
if pid == 0:
    left = there & sockets()
    # A child may fork again, and close nothing that is not its own.
    mine = os.open("/dev/null", os.O_RDONLY)
    again = os.fork()
    if again == 0:
        os.fstat(mine)
        os._exit(len(left))
    os._exit(os.waitstatus_to_exitcode(os.waitpid(again, 0)[1]))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert there <= sockets()
assert all(client.ping() for client in clients)
"""
    program = Process(sys.executable, "-W", "ignore::DeprecationWarning", "-c", code)
    assert program.wait() == 0, program.output
    program.kill()
