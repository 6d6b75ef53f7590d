"""How often the bytes of a payload are copied on their way, seen by the memory that a process needs for that."""

from __future__ import annotations

from typing import Dict, Iterator

import numpy
import pytest

from ipc_framework import FrameworkClient
from peers import RustServer, run_program

#: Blocks of more than 32 MiB are what the C library gives back to the system as soon as they are freed.
MEGABYTES = 48
OPTIONS = {"frame_bytes_max": 2 * MEGABYTES << 20, "queue_bytes_max": 4 * MEGABYTES << 20}

MEASURED = """
import gc
import pathlib

import numpy
from ipc_framework import FrameworkClient, Tensor

given = bytes(MEGABYTES << 20)
array = numpy.ones(MEGABYTES << 18, "f4")


def kilobytes(name):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])


def measure(name, work):
    gc.collect()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS:")
    work()
    print(f"{name}: {(kilobytes('VmHWM:') - before) / 1024 / MEGABYTES:.2f}")


def send(payload):
    client.publish("nobody", payload)
    assert client.flush(60)


with FrameworkClient("bench", port=PORT, **OPTIONS) as client:
    # What is imported and allocated once.
    client.send_request("echo", [given[:100_000], array[:100_000]])
    measure("bytes out", lambda: send(given))
    measure("view of bytes out", lambda: send({"a": [memoryview(given)]}))
    measure("tensor of bytes out", lambda: send(Tensor("u8", [len(given)], given)))
    measure("array out", lambda: send({"a": [array]}))
    measure("transposed array out", lambda: send(array.reshape(1024, -1).T))
    measure("view of an array out", lambda: send(array.data))
    measure("request with an array out", lambda: client.send_request("length", array, 60))
    measure("array in", lambda: client.send_request("array", None, 60))
    measure("bytes in", lambda: client.send_request("bytes", None, 60))
    came = client.send_request("array", None, 60).payload
    measure("received array out", lambda: send([came]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RustServer]:
    started = RustServer("--max-frame-bytes", 2 * MEGABYTES << 20)
    yield started
    started.stop()


def measure(server: RustServer) -> Dict[str, float]:
    with FrameworkClient("bench", **server.arguments, **OPTIONS) as worker:
        worker.serve("length", lambda request: request.payload.nbytes)
        worker.serve("array", lambda request: numpy.ones(MEGABYTES << 18, "f4"))
        worker.serve("bytes", lambda request: bytes(MEGABYTES << 20))
        given = f"MEGABYTES, PORT, OPTIONS = {MEGABYTES}, {server.port}, {OPTIONS}\n"
        ended = run_program(given + MEASURED)
    assert ended.returncode == 0, ended.stderr
    return {name: float(found) for name, found in (line.split(": ") for line in ended.stdout.splitlines())}


def test_what_is_sent_is_copied_once_at_most_and_bytes_never(server: RustServer) -> None:
    found = measure(server)
    for name in ("bytes out", "view of bytes out", "tensor of bytes out", "received array out"):
        assert found.pop(name) < 0.2, name
    # With the memory in which it came.
    assert found.pop("bytes in") < 2.6
    for name, count in found.items():
        assert count < 1.5, name
    assert len(found) == 5
