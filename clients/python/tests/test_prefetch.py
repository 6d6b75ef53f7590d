"""Workers that leave to the server what they have no hand free for."""

import asyncio
import threading

import pytest
from peers import RustServer, eventually, free_port

from ipc_framework import FrameworkClient, aio


@pytest.fixture
def server():
    started = RustServer()
    yield started
    started.stop()


def service(client, channel_id):
    services = client.send_request("system", {"action": "list_services"}).payload["services"]
    found = [service for service in services if service["name"] == channel_id]
    return (found[0]["kept_requests"], found[0].get("concurrency")) if found else None


def asked(client, channel_id, numbers, answers):
    for number in numbers:
        client.send_request_async(channel_id, number, lambda answer: answers.append(answer.payload))


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_a_new_worker_takes_over_what_the_server_keeps(server, is_coroutine):
    begun, answers, done = [], [], threading.Event()

    def first(message):
        begun.append(message.payload)
        done.wait()
        return "first"

    async def later(message):
        begun.append(message.payload)
        while not done.is_set():
            await asyncio.sleep(0.005)
        return "first"

    clients = [FrameworkClient("models", **server.arguments) for _ in range(3)]
    one, two, asks = clients
    for client in clients:
        client.connect()
    try:
        one.serve("model", later if is_coroutine else first, concurrency=1, prefetch=1)
        asked(asks, "model", range(6), answers)
        # One is handled, and one waits at the worker.
        eventually("four are kept", lambda: service(asks, "model") == (4, [2]))
        two.serve("model", lambda message: message.payload, concurrency=2, prefetch=0)
        eventually("the new one answers", lambda: sorted(answers) == [2, 3, 4, 5])
        assert begun == [0]
        done.set()
        eventually("so does the first one", lambda: answers.count("first") == 2)
        assert service(asks, "model") == (0, [2, 2])
    finally:
        done.set()
        for client in clients:
            client.disconnect()


def test_without_it_all_requests_are_handed_out_at_once(server):
    done = threading.Event()
    with FrameworkClient("models", **server.arguments) as worker, FrameworkClient("models", **server.arguments) as asks:
        worker.serve("model", lambda message: done.wait())
        asked(asks, "model", range(6), [])
        asks.ping()
        assert service(asks, "model") == (0, None)
        assert asks.send_request("system", {"action": "get_stats"}).payload["pending_requests"] == 6
        done.set()


def test_it_is_an_option_of_aio_and_of_decorators_too(server):
    async def main():
        where = {"host": server.arguments["host"], "port": server.arguments["port"]}
        async with aio.connect("models", **where) as client:

            @client.serve("model", concurrency=3, prefetch=4)
            async def model(message):
                return message.payload

            await client.ready()
            await client.serve("plain", lambda message: message.payload, prefetch=0)
            answer = await client.request("system", {"action": "list_services"})
            given = {service["name"]: service["concurrency"] for service in answer.payload["services"]}
            assert given == {"model": [7], "plain": [16]}
            assert (await client.request("model", 5)).payload == 5

    asyncio.run(main())


def test_the_number_is_one_that_the_server_takes(server):
    with FrameworkClient("models", **server.arguments) as worker:

        @worker.serve("model", concurrency=2, prefetch=1_000_000)
        def model(message):
            return message.payload

        assert service(worker, "model") == (0, [65_536])
        for bad in (-1, 1.5, "4", True):
            with pytest.raises(ValueError, match="prefetch"):
                worker.serve("other", model, prefetch=bad)


def test_it_is_announced_again_after_a_reconnect():
    port = free_port()
    server = RustServer(port=port)
    try:
        with FrameworkClient("models", "127.0.0.1", port, reconnect=(0.01, 0.1)) as worker:
            worker.serve("model", lambda message: message.payload, concurrency=2, prefetch=3)
            server.kill()
            eventually("the loss is seen", lambda: not worker.connected)
            server = RustServer(port=port)
            eventually("it is back", lambda: worker.connected)
            eventually("it is announced", lambda: service(worker, "model") == (0, [5]))
    finally:
        server.kill()
