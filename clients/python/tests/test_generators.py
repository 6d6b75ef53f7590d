"""Generators as handlers, for requesters that take one answer."""

import asyncio
import threading

import pytest
from peers import eventually
from wire import first_peer

from ipc_framework import FrameworkClient, aio


def count(message):
    for number in range(message.payload):
        yield {"part": number}


async def count_later(message):
    for number in range(message.payload):
        await asyncio.sleep(0)
        yield {"part": number}


class Counter:
    def __call__(self, message):
        return count(message)


class LaterCounter:
    async def __call__(self, message):
        for number in range(message.payload):
            yield {"part": number}


HANDLERS = {
    "generator": count,
    "async": count_later,
    "lambda": lambda message: count(message),
    "async lambda": lambda message: count_later(message),
    "object": Counter(),
    "async object": LaterCounter(),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_all_parts_are_one_answer(rust, handler):
    with FrameworkClient("app", **rust.arguments) as worker:
        worker.serve("count", handler)
        assert worker.send_request("count", 3).payload == [{"part": 0}, {"part": 1}, {"part": 2}]
        assert worker.send_request("count", 0).payload == []
        # It is done before the next one.
        worker.notify("count", 2)
        assert worker.send_request("count", 1).payload == [{"part": 0}]


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
def test_also_by_a_worker_of_aio(rust, handler):
    async def main():
        async with aio.connect("app", **rust.arguments) as client:
            await client.serve("count", handler)
            assert (await client.request("count", 2)).payload == [{"part": 0}, {"part": 1}]

    asyncio.run(main())


@pytest.mark.parametrize("workers", [0, 2])
def test_also_by_a_server(serve, workers):
    server = serve(workers=workers)
    app = server.create_application("app")
    for name, handler in HANDLERS.items():
        app.create_channel(name).serve(handler)
    peer = first_peer(server)
    for name in HANDLERS:
        assert peer.ask(name, 3) == [{"part": 0}, {"part": 1}, {"part": 2}], name
        assert peer.ask(name, 0) == [], name


def test_a_generator_that_waits_does_not_stop_the_server(serve):
    server, go = serve(), threading.Event()
    app = server.create_application("app")

    def wait(message):
        yield 1
        go.wait()

    app.create_channel("wait").serve(wait)
    app.create_channel("now").serve(lambda message: message.payload)
    peer = first_peer(server)
    peer.send("request", "wait", None)
    assert peer.ask("now", 5) == 5
    go.set()
    assert peer.receive()["payload"] == [1]


ENDLESS_SEEN = []


def endless(message):
    try:
        while True:
            yield "a" * 100_000
    finally:
        ENDLESS_SEEN.append("closed")


async def endless_later(message):
    try:
        while True:
            yield "a" * 100_000
    finally:
        ENDLESS_SEEN.append("closed")


@pytest.mark.parametrize("handler", [endless, endless_later])
def test_what_fits_into_no_frame_is_refused_by_a_worker(rust, handler):
    ENDLESS_SEEN.clear()
    with FrameworkClient("app", **rust.arguments, frame_bytes_max=1 << 20) as worker:
        worker.serve("endless", handler)
        refused = worker.send_request("endless", None).payload
        assert (refused["code"], "stream" in refused["error"]) == ("limit_exceeded", True)
        eventually("it is closed", lambda: ENDLESS_SEEN == ["closed"])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("handler", [endless, endless_later])
def test_what_fits_into_no_frame_is_refused_by_a_server(serve, workers, handler):
    ENDLESS_SEEN.clear()
    server = serve(workers=workers, limits={"frame_bytes_max": 1 << 20})
    server.create_application("app").create_channel("endless").serve(handler)
    refused = first_peer(server).ask("endless")
    assert (refused["code"], "stream" in refused["error"]) == ("limit_exceeded", True)
    eventually("it is closed", lambda: ENDLESS_SEEN == ["closed"])


def fails(message):
    yield 1
    raise KeyError("a")


def is_no_json(message):
    yield {1, 2}


@pytest.mark.parametrize("handler, text", [(fails, "KeyError: 'a'"), (is_no_json, "set")])
def test_one_that_fails_is_a_crash(rust, serve, handler, text):
    with FrameworkClient("app", **rust.arguments) as worker:
        worker.serve("job", handler)
        told = [worker.send_request("job", 1).payload]
    server = serve()
    server.create_application("app").create_channel("job").serve(handler)
    told.append(first_peer(server).ask("job"))
    for payload in told:
        assert payload["code"] == "handler_failed" and text in payload["error"]
