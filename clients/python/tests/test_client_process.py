"""Clients and the life of their process: its end, its forks, its signals."""

import os
import signal
import sys
import time

import pytest
from peers import Process, RustServer, STEP_SECONDS_MAX, eventually, run_program

from ipc_framework import FrameworkClient


def run(rust, code, **options):
    """Runs a program that has a connected `client`; it has to end by itself."""
    begin = f"""
import gc, os, signal, sys, threading, time
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port={rust.port})
assert client.connect()
"""
    return run_program(begin + code, **options)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "client.subscribe('news', print); client.publish('news', 1)",
        "client.send_request_async('nobody', 0, lambda m: None)",
        "client.serve('held', lambda m: m.payload)",
        "client.subscribe('news', lambda m: time.sleep(1000)); client.publish('news', 1); client.flush()",
        "client.subscribe('news', lambda m: client.disconnect()); client.publish('news', 1); time.sleep(0.2)",
        "del client",
        "client.disconnect()",
        "raise SystemExit(0)",
    ],
    ids=["idle", "subscribed", "asking", "serving", "stuck", "from a handler", "forgotten", "closed", "exit"],
)
def test_a_program_ends_with_a_client_open(rust, code):
    ended = run(rust, code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_thread_that_waits_for_an_answer_does_not_hold_up_the_end(rust):
    code = """
held = FrameworkClient("bench", port=client.port)
held.connect()
held.create_channel_handler("held", lambda m: None)
held.send_request("system", {"action": "serve", "channel": "held"})
def ask():
    try:
        client.send_request("held", 0, 1000)
    except Exception as error:
        os.write(1, (error.code + "\\n").encode())
for _ in range(200): threading.Thread(target=ask, daemon=True).start()
time.sleep(0.2)
"""
    # Without care Python kills such threads in native code, and with them the process: in two of five runs.
    for _ in range(10):
        ended = run(rust, code)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert set(ended.stdout.split()) <= {"closed"}


def test_what_was_published_last_arrives_after_the_end(rust):
    seen = []
    with FrameworkClient("bench", **rust.arguments) as subscriber:
        subscriber.subscribe("last words", lambda message: seen.append(message.payload))
        assert subscriber.flush(STEP_SECONDS_MAX)
        ended = run(rust, "for number in range(2000): client.publish('last words', number)")
        assert (ended.returncode, ended.stderr) == (0, "")
        eventually("all of it arrived", lambda: len(seen) >= 2000)
        assert seen == list(range(2000))


def test_ctrl_c_ends_a_wait(rust):
    code = f"""
import time
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port={rust.port})
with client:
    client.create_channel_handler("held", lambda m: print("taken", flush=True))
    client.send_request("system", {{"action": "serve", "channel": "held"}})
    try:
        client.send_request("held", 0, timeout=1000)
    except KeyboardInterrupt:
        # The client's own thread forgets it.
        while client.get_connection_info()["pending_requests"]: time.sleep(0.01)
        print("interrupted, and nothing waits", flush=True)
    try:
        print("waiting", flush=True)
        client.wait()
    except KeyboardInterrupt:
        print("again", flush=True)
"""
    program = Process(sys.executable, "-c", code)
    program.expect("taken")
    program.signal(signal.SIGINT)
    program.expect("interrupted, and nothing waits")
    program.expect("waiting")
    time.sleep(0.1)
    program.signal(signal.SIGINT)
    program.expect("again")
    assert program.wait() == 0
    program.kill()


@pytest.mark.parametrize("what", ["connect()", "publish('flood', 'x' * 100_000)", "serve('held', print)", "close()"])
def test_ctrl_c_ends_what_a_server_that_stands_still_holds_up(what):
    server = RustServer()
    code = f"""
from ipc_framework import FrameworkClient
client = FrameworkClient("bench", port={server.port}, connection_timeout=1000, heartbeat=None, queue_bytes_max=100_000)
if {what!r} != "connect()":
    client.connect()
print("ready", flush=True)
input()
try:
    print("may be interrupted", flush=True)
    if {what!r} == "close()":
        for _ in range(100): client.publish('flood', 'x' * 100_000)
    while True:
        print("begin", flush=True)
        client.{what}
except KeyboardInterrupt:
    print("interrupted", flush=True)
client.close(0.1)
"""
    program = Process(sys.executable, "-c", code)
    program.expect("ready")
    server.signal(signal.SIGSTOP)
    program.type_line("")
    # With "close()" it is held up by what it sends before, which can be interrupted as well.
    program.expect("may be interrupted" if what == "close()" else "begin")
    eventually("it waits", lambda: asleep(program))
    program.signal(signal.SIGINT)
    program.expect("interrupted")
    assert program.wait() == 0, program.output
    program.kill()
    server.kill()


def asleep(program):
    """Whether the program has made no progress for a while."""
    before = program.output
    time.sleep(0.5)
    return program.output == before


def test_a_forked_child_has_no_connection_and_leaves_the_parents_alone(rust):
    code = """
client.subscribe("news", print)
pid = os.fork()
if pid == 0:
    assert client.connected is False
    try:
        client.publish("news", 1)
    except Exception as error:
        assert type(error).__name__ == "ConnectionError", error
    else:
        raise AssertionError("the parent's connection was used")
    assert client.connect()
    assert client.send_request("echo", "child").payload == "child"
    client.disconnect()
    sys.exit(7)
for number in range(200):
    assert client.send_request("echo", number).payload == number
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert client.connected and client.send_request("echo", "parent").payload == "parent"
"""
    ended = run(rust, code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_fork_while_other_threads_are_busy_does_not_hang(rust):
    code = """
stop = threading.Event()
busy = FrameworkClient("bench", port=client.port)
busy.connect()
# The thread behind `client` locks and unlocks all the time.
client.subscribe("flood")
def flood():
    while not stop.is_set():
        for _ in range(100): busy.publish("flood", 0)
        busy.flush()
threads = [threading.Thread(target=flood) for _ in range(2)]
for thread in threads: thread.start()
for number in range(60):
    pid = os.fork()
    if pid == 0:
        # Its end must not want what threads of the parent had locked just then.
        del client
        gc.collect()
        # Of some the whole end of an interpreter, `atexit` included.
        sys.exit(0) if number % 20 == 0 else os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
for thread in threads: thread.join()
assert client.send_request("echo", "parent").payload == "parent"
"""
    ended = run(rust, code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_multiprocessing_with_fork(rust):
    code = """
import multiprocessing
def child(number):
    assert client.connect()
    return client.send_request("echo", number).payload
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(child, range(10)) == list(range(10))
assert client.send_request("echo", "parent").payload == "parent"
"""
    ended = run(rust, code)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_descriptors_and_threads_are_given_back(rust):
    def count():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def once():
        with FrameworkClient("bench", **rust.arguments) as client:
            client.serve("once", lambda message: message.payload)
            client.send_request("echo", 1)

    once()
    before = count()
    for _ in range(20):
        once()
    eventually("all is given back", lambda: count() <= before)
    # And by one that connects again and again.
    again = FrameworkClient("bench", **rust.arguments)
    for _ in range(20):
        assert again.connect()
        again.disconnect()
    eventually("all is given back once more", lambda: count() <= before)
    assert again.connect()
    native = again._native
    again.disconnect()
    eventually("nothing else refers to the old connection", lambda: sys.getrefcount(native) == 2)
    assert again.wait(0)
