"""SIGTERM, by which docker, systemd and Kubernetes end a program."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from peers import Process, RustServer, STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient

README = (pathlib.Path(__file__).resolve().parent.parent / "README.md").read_text()

SERVER = """
import signal, sys, threading, time
from ipc_framework import FrameworkServer
server = FrameworkServer("127.0.0.1", 0)
channel = server.create_application("bench").create_channel("slow")
@channel.serve
def slow(request):
    print("taken", flush=True)
    time.sleep(0.5)
    return "done"
def tell():
    while not server.running: time.sleep(0.001)
    print(f"listening on 127.0.0.1:{server.port} ", flush=True)
threading.Thread(target=tell, daemon=True).start()
"""
FOREVER = "server.serve_forever()\nprint('drained', flush=True)\n"
LAST_LINE = "import logging; logging.basicConfig(level='INFO', stream=sys.stdout)\nserver.start()"


def drains(*command, until=""):
    server = Process(*command)
    try:
        server.expect(until)
        (found,) = server.expect(r"listening on 127.0.0.1:(\d+)")
        answers = []
        with FrameworkClient("bench", "127.0.0.1", int(found[1]), reconnect=False) as client:
            client.send_request_async("slow", 1, lambda message: answers.append(message.payload))
            server.expect("taken")
            # As a process of its own namespace it is the only child of `unshare`.
            children = pathlib.Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            inner = children.read_text().split() if "unshare" in command[0] else []
            os.kill(int(inner[0]) if inner else server.process.pid, signal.SIGTERM)
            eventually("what was in hand is answered", lambda: answers == ["done"])
        assert server.wait() == 0, server.output
        return server.output
    finally:
        server.kill()


@pytest.mark.parametrize("end", [FOREVER, LAST_LINE], ids=["serve_forever", "last line"])
def test_a_server_drains(end):
    output = drains(sys.executable, "-c", SERVER + end, until="" if end is FOREVER else "until Ctrl-C or SIGTERM")
    assert end is LAST_LINE or "drained" in output


def test_a_server_drains_as_process_1(tmp_path):
    unshare = shutil.which("unshare")
    assert unshare, "install util-linux, which has unshare, and run again"
    flags = ["-pf", "--kill-child"] if os.getuid() == 0 else ["-rpf", "--kill-child"]
    assert "drained" in drains(unshare, *flags, "--mount-proc", sys.executable, "-c", SERVER + FOREVER)


def test_a_second_signal_ends_at_once():
    code = SERVER.replace("time.sleep(0.5)", "time.sleep(1000)").replace("0)\n", "0, workers=1)\n", 1) + FOREVER
    server = Process(sys.executable, "-c", code)
    try:
        (found,) = server.expect(r"listening on 127.0.0.1:(\d+)")
        with FrameworkClient("bench", "127.0.0.1", int(found[1]), reconnect=False) as client:
            client.request("slow", 1)
            server.expect("taken")
            seen = []
            client.on_event(lambda event: seen.append(event.name))
            server.signal(signal.SIGTERM)
            eventually("it drains", lambda: "leaving" in seen)
            server.signal(signal.SIGTERM)
            assert server.wait() == -signal.SIGTERM
    finally:
        server.kill()


def test_a_handler_of_the_programs_own_stays():
    code = SERVER + (
        "signal.signal(signal.SIGTERM, lambda *_: (print('my own', flush=True), server.stop()))\n" + FOREVER
    )
    assert re.search(r"my own\s+drained", drains(sys.executable, "-c", code))


CHILD = """
import multiprocessing
context = multiprocessing.get_context("fork")
def fork():
    # In the child its main program would take the exception for a request's own, as pools do.
    # Some are told to end before they have taken the server's handler away.
    children = [context.Process(target=sleeps, daemon=True) for _ in range(20)]
    for child in children:
        child.start()
        child.terminate()
    for child in children: child.join(10)
    print(f"children {set(child.exitcode for child in children)} ", flush=True)
    server.stop()
def sleeps():
    try:
        time.sleep(1000)
    except BaseException:
        time.sleep(1000)
def wait_and_fork():
    while not server.running: time.sleep(0.001)
    time.sleep(0.2)
    fork()
threading.Thread(target=wait_and_fork).start()
"""


def test_a_child_of_a_server_ends_as_other_processes_do():
    server = Process(sys.executable, "-W", "ignore::DeprecationWarning", "-c", SERVER + CHILD + FOREVER)
    try:
        server.expect(f"children {{{-signal.SIGTERM.value}}} ")
        assert server.wait() == 0, server.output
    finally:
        server.kill()


ABOUT = README.split("**SIGTERM.**", 1)[1].split("**Processes.**", 1)[0]
RECIPES = re.findall(r"```python\n(.*?)```", ABOUT, re.DOTALL)


def test_there_are_two_recipes():
    assert len(RECIPES) == 2


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("as_process_1", [False, True])
def test_a_worker_as_the_readme_shows_it_answers_what_it_has(recipe, as_process_1):
    server = RustServer()
    code = recipe.replace('("bench")', f'("bench", port={server.port})')
    slow = "print('taken', flush=True); import time; time.sleep(0.5); return message.payload ** 2"
    if "async def square" in code:
        slow = slow.replace("time.sleep", "await asyncio.sleep")
    code = code.replace("return message.payload ** 2", slow)
    assert "taken" in code
    command = [sys.executable, "-c", code]
    if as_process_1:
        command = ["unshare", *(["-pf"] if os.getuid() == 0 else ["-rpf"]), "--kill-child", "--mount-proc", *command]
    worker = Process(*command)
    try:
        with FrameworkClient("bench", **server.arguments) as client:
            list_services = {"action": "list_services"}
            eventually("it serves", lambda: client.send_request("system", list_services).payload["services"])
            answers = []
            client.send_request_async("square", 7, lambda message: answers.append(message.payload))
            worker.expect("taken")
            pid = worker.process.pid
            if as_process_1:
                pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            os.kill(pid, signal.SIGTERM)
            eventually("it is answered", lambda: answers == [49])
        assert worker.wait() == 0, worker.output
    finally:
        worker.kill()
        server.stop()
