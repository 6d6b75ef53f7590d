"""Errors of the clients are an `IPCError` with a code and a text, whatever goes wrong."""

import asyncio

import pytest
from peers import run_program

from ipc_framework import aio
from ipc_framework.exceptions import ConnectionError

FEW_DESCRIPTORS = """
import asyncio, os, resource
from ipc_framework import FrameworkClient, aio
from ipc_framework.exceptions import IPCError
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
async def main():
    # What comes with the first use is there already.
    await (await aio.connect("bench", port={port})).close()
    there = len(os.listdir("/proc/self/fd")) - 1
    failures = 0
    for more in range(20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + more, hard))
        try:
            client = await aio.connect("bench", port={port})
        except IPCError as error:
            assert error.code and str(error), repr(error)
            failures += 1
            continue
        try:
            await client.serve("few", lambda message: 1)
        except IPCError as error:
            assert error.code and str(error), repr(error)
        await client.close()
    assert 2 <= failures < 20, failures
    for more in range(20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (there + more, hard))
        client = FrameworkClient("bench", port={port})
        if not client.connect():
            assert client.last_error.code and str(client.last_error)
        client.close()
asyncio.run(main())
"""


def test_a_lack_of_descriptors(rust):
    ended = run_program("import logging; logging.disable()\n" + FEW_DESCRIPTORS.format(port=rust.port))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_request_in_flight_when_the_client_is_closed(rust):
    async def main():
        worker = await aio.connect("in flight", **rust.arguments)
        client = await aio.connect("in flight", **rust.arguments)
        begun = asyncio.Event()

        async def held(message):
            begun.set()
            await asyncio.sleep(1000)

        await worker.serve("held", held)
        asking = asyncio.create_task(client.request("held", 1, timeout=None))
        await begun.wait()
        await client.close(0.1)
        with pytest.raises(ConnectionError) as closed:
            await asking
        assert closed.value.code == "closed" and closed.value.may_be_executed and str(closed.value)
        await worker.close(0.1)

    asyncio.run(main())
