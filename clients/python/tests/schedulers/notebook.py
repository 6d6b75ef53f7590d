"""Cells of a notebook, whose kernel runs them in its own event loop: `notebook.py PORT`."""

import sys
import time

from ipc_framework import FrameworkClient
from jupyter_client.manager import start_new_kernel

STEP_SECONDS_MAX = 60
port = int(sys.argv[1])
manager, kernel = start_new_kernel(kernel_name="python3", startup_timeout=STEP_SECONDS_MAX)


def begin(code):
    """Sends a cell, and returns when the kernel runs it."""
    number = kernel.execute(code)
    while True:
        message = kernel.get_iopub_msg(timeout=STEP_SECONDS_MAX)
        if message["parent_header"].get("msg_id") == number and message["msg_type"] == "execute_input":
            return number


def end(number):
    """Returns what a cell has printed and the name of the error that ended it, if there was one."""
    printed, error = "", None
    while True:
        message = kernel.get_iopub_msg(timeout=STEP_SECONDS_MAX)
        if message["parent_header"].get("msg_id") != number:
            continue
        content = message["content"]
        if message["msg_type"] == "stream":
            printed += content["text"]
        elif message["msg_type"] == "error":
            error = content["ename"]
        elif message["msg_type"] == "status" and content["execution_state"] == "idle":
            return printed, error


def cell(code):
    printed, error = end(begin(code))
    assert error is None, (error, printed)
    return printed


def eventually(condition):
    deadline = time.monotonic() + STEP_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


outside = FrameworkClient("bench", "127.0.0.1", port)
assert outside.connect()
silent = []
outside.serve("silent", lambda message: (silent.append(1), time.sleep(1000)), concurrency=2)

# `await` at top level, and the client of threads while the loop runs.
cell(f"""
import asyncio
from ipc_framework import FrameworkClient, aio
client = await aio.connect("bench", host="127.0.0.1", port={port})
blocking = FrameworkClient("bench", "127.0.0.1", {port})
assert blocking.connect()
""")
assert cell("print((await client.request('echo', 1)).payload, blocking.send_request('echo', 2).payload)") == "1 2\n"

# What one cell has begun goes on between cells.
cell("""
@client.serve("square")
async def square(request):
    await asyncio.sleep(0)
    return request.payload ** 2

@blocking.serve("cube")
def cube(request):
    return request.payload ** 3

await client.ready()
seen, heard = [], []
async def listen():
    async for message in client.subscribe("news"):
        seen.append(message.payload)
listening = asyncio.create_task(listen())
blocking.subscribe("news", lambda message: heard.append(message.payload))
await asyncio.sleep(0)
await client.flush()
assert blocking.flush()
""")
assert outside.send_request("square", 7, STEP_SECONDS_MAX).payload == 49
assert outside.send_request("cube", 3, STEP_SECONDS_MAX).payload == 27
assert cell("print((await client.request('cube', 2)).payload)") == "8\n"
outside.publish("news", "it works")
assert outside.flush()
eventually(lambda: cell("print(seen, heard)") == "['it works'] ['it works']\n")

# The button "interrupt" ends the wait of a cell, and nothing else.
waits = ["blocking.send_request('silent', 1, 600)", "await client.request('silent', 1, timeout=600)"]
for number, wait in enumerate(waits, 1):
    waiting = begin(wait)
    eventually(lambda: len(silent) == number)
    manager.interrupt_kernel()
    _, error = end(waiting)
    assert error in ("KeyboardInterrupt", "CancelledError"), error
assert cell("print((await client.request('echo', 1)).payload, blocking.send_request('echo', 2).payload)") == "1 2\n"
assert outside.send_request("square", 8, STEP_SECONDS_MAX).payload == 64

# The kernel ends, and the server is told at once.
kernel.stop_channels()
manager.shutdown_kernel()
assert outside.send_request("square", 9, STEP_SECONDS_MAX).payload["code"] in ("no_handler", "worker_lost")
outside.close(0.0)
print("all is well", flush=True)
