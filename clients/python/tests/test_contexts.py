"""Whose `contextvars` a callback, a handler or a listener sees."""

import asyncio
import contextvars

import pytest
from peers import STEP_SECONDS_MAX, eventually

from ipc_framework import FrameworkClient, MessageType, aio

user = contextvars.ContextVar("user", default="nobody")


def as_user(name, call, *arguments, **options):
    """Calls something in the context of a user."""

    def within():
        user.set(name)
        return call(*arguments, **options)

    return contextvars.copy_context().run(within)


def test_each_callback_of_a_client_runs_in_the_context_of_who_set_it(rust, request):
    client = FrameworkClient(request.node.name, **rust.arguments)
    assert as_user("who connects", client.connect)
    seen = {}

    def note(name):
        def handler(message):
            seen[name] = user.get()
            # The next message does not see it.
            user.set("leaked")

        return handler

    with client:
        as_user("who subscribes", client.subscribe, "news", note("news"))
        as_user("who handles", client.create_channel_handler, "other", note("other"))
        as_user("who listens", client.on_event, note("event"))
        assert client.flush()
        for _ in range(2):
            seen.clear()
            client.publish("news", 1)
            as_user("who asks", client.send_request_async, "nobody", 1, note("answer"))
            client.message_handlers["plain"] = note("plain")
            client.send_message("plain", MessageType.SUBSCRIBE, {"connection_id": client.connection_id})
            client.publish("plain", 1)
            eventually("all have come", lambda: {"news", "answer", "plain"} <= set(seen))
            assert seen == {"news": "who subscribes", "answer": "who asks", "plain": "nobody"}
        failed = []
        client.create_channel_handler("held", lambda message: None)
        assert client.send_request("system", {"action": "serve", "channel": "held"}).payload["status"] == "serving"
        as_user("who asks", client.send_request_async, "held", 1, print, 0.05, lambda error: failed.append(user.get()))
        eventually("it fails", lambda: failed)
        assert failed == ["who asks"]
        seen.clear()
    eventually("it is closed", lambda: seen == {"event": "who listens"})


def plain(message):
    before = user.get()
    user.set(message.payload)
    return before


async def coroutine(message):
    before = user.get()
    user.set(message.payload)
    await asyncio.sleep(0)
    assert user.get() == message.payload
    return before


def mixed(message):
    """A plain function that returns a coroutine."""
    return coroutine(message)


@pytest.mark.parametrize("handler", [plain, coroutine, mixed])
def test_each_request_is_served_in_a_copy_of_the_context_of_who_serves(rust, request, handler):
    app = request.node.name
    worker = FrameworkClient(app, **rust.arguments)
    assert as_user("who connects", worker.connect)
    with worker, FrameworkClient(app, **rust.arguments) as client:
        as_user("who serves", worker.serve, "whose", handler, concurrency=4)
        as_user("another", worker.serve, "other", handler)
        for number in range(20):
            assert client.send_request("whose", number).payload == "who serves"
            assert client.send_request("other", number).payload == "another"


@pytest.mark.parametrize("handler", [plain, coroutine, mixed])
def test_the_same_with_aio(rust, request, handler):
    app = request.node.name

    async def main():
        user.set("who connects")
        heard = []
        async with aio.connect(app, **rust.arguments) as client:

            async def serve(name, channel):
                user.set(name)
                client.on_event(lambda event: heard.append(user.get()))
                await client.serve(channel, handler)

            await asyncio.gather(serve("one", "1"), serve("two", "2"))
            for number in range(10):
                assert (await client.request("1", number)).payload == "one"
                assert (await client.request("2", number)).payload == "two"
        assert sorted(set(heard)) == ["one", "two"]

    asyncio.run(asyncio.wait_for(main(), STEP_SECONDS_MAX))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("is_routed", [False, True])
@pytest.mark.parametrize("handler", [plain, coroutine, mixed])
def test_the_same_with_a_server(serve, workers, is_routed, handler):
    from ipc_framework import FrameworkServer

    class Routing(FrameworkServer):
        def route_message(self, message):
            return super().route_message(message)

    server = serve(Routing if is_routed else FrameworkServer, workers=workers)
    application = server.create_application("app")
    as_user("before", application.create_channel("before").serve, handler)
    contextvars.Context().run(application.create_channel("empty").serve, handler)
    as_user("who starts", server.start)
    as_user("after", application.create_channel("after").serve, handler)
    with FrameworkClient("app", port=server.port) as client:
        for number in range(5):
            assert client.send_request("before", number).payload == "before"
            assert client.send_request("empty", number).payload == "nobody"
            assert client.send_request("after", number).payload == "after"
