"""Errors that handlers raise with a code of their own."""

import asyncio
import concurrent.futures
import logging
import multiprocessing
import pickle

import pytest
from wire import first_peer

from ipc_framework import FrameworkClient, HandlerError, IPCError, MessageType, aio
from ipc_framework.exceptions import ApplicationError, ConnectionError

DETAILS = {"field": "width", "given": [1, None]}
TOLD = {"status": "error", "code": "app:bad_input", "error": "width is positive", "details": DETAILS}


class NotFound(HandlerError):
    def __init__(self, what):
        super().__init__("not_found", f"there is no {what}")
        self.what = what


def refuse(message):
    raise HandlerError("bad_input", "width is positive", DETAILS)


async def refuse_later(message):
    refuse(message)


def refuse_after_a_part(message):
    yield 1
    refuse(message)


async def refuse_after_a_part_later(message):
    yield 1
    refuse(message)


HANDLERS = [refuse, refuse_later, refuse_after_a_part, refuse_after_a_part_later, lambda message: refuse_later(message)]


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.__name__)
def test_of_a_worker(where, caplog, handler):
    async def main():
        async with aio.connect("app", **where) as client:
            with pytest.raises(ApplicationError) as raised:
                await client.request("job")
            return raised.value

    with FrameworkClient("app", **where) as worker:
        worker.serve("job", handler)
        assert worker.send_request("job", 1).payload == TOLD
        error = asyncio.run(main())
    assert (error.code, str(error), error.details) == ("app:bad_input", "width is positive", DETAILS)
    assert error.is_application and error.may_be_executed
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("handler", HANDLERS[:4], ids=lambda handler: handler.__name__)
def test_of_a_worker_of_aio(where, caplog, handler):
    async def main():
        async with aio.connect("app", **where) as client:
            await client.serve("job", handler)
            with pytest.raises(ApplicationError) as raised:
                await client.request("job")
            assert (raised.value.code, raised.value.details) == ("app:bad_input", DETAILS)

    asyncio.run(main())
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("workers", [0, 2])
def test_of_a_server(serve, caplog, workers):
    server = serve(workers=workers)
    app = server.create_application("app")
    for number, handler in enumerate(HANDLERS):
        app.create_channel(f"served-{number}").serve(handler)
    app.create_channel("set").set_handler(MessageType.REQUEST, refuse)
    peer = first_peer(server)
    for channel in (*(f"served-{number}" for number in range(len(HANDLERS))), "set"):
        assert peer.ask(channel) == TOLD, channel
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_an_error_of_the_server_is_none_of_an_application(rust):
    async def main():
        async with aio.connect("app", **rust.arguments) as client:
            with pytest.raises(IPCError) as raised:
                await client.request("nobody")
            return raised.value

    error = asyncio.run(main())
    assert (error.code, error.details, error.is_application) == ("no_handler", None, False)
    assert not ConnectionError("lost").is_application


def test_a_crash_is_none_either(rust, caplog):
    with FrameworkClient("app", **rust.arguments) as worker:
        worker.serve("job", lambda message: 1 / 0)
        assert worker.send_request("job", 1).payload["code"] == "handler_failed"
    assert [one.exc_info[0] for one in caplog.records if one.exc_info] == [ZeroDivisionError]


def test_the_code_may_have_its_prefix():
    assert HandlerError("app:not.found_1-a", "text").code == HandlerError("not.found_1-a", "text").code
    assert HandlerError("a" * 64, "").code == "app:" + "a" * 64
    assert str(HandlerError("gone", "the file \udcff")) == "the file \\udcff"


@pytest.mark.parametrize("code", ["", "app:", "a" * 65, "not found", "é", "app:app:x", "x\n", "٣"])
def test_a_wrong_code_is_refused_where_it_is_made(code):
    with pytest.raises(ValueError, match="code of a HandlerError"):
        HandlerError(code, "text")


def test_what_cannot_be_sent_is_refused_where_it_is_made():
    with pytest.raises(TypeError, match="strings"):
        HandlerError("code", 5)
    with pytest.raises(TypeError, match="payload.*set"):
        HandlerError("code", "text", {"given": {1, 2}})
    with pytest.raises(ValueError, match="NaN"):
        HandlerError("code", "text", float("nan"))
    deep = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="nest|deep"):
        HandlerError("code", "text", deep)
    around = len('{"status":"error","code":"app:code","error":"","details":""}')
    assert len(HandlerError("code", "", "a" * ((16 << 10) - around)).details) == (16 << 10) - around
    with pytest.raises(ValueError, match="at most 16384 bytes"):
        HandlerError("code", "", "a" * ((16 << 10) - around + 1))


def test_without_details_none_are_sent(rust):
    with FrameworkClient("app", **rust.arguments) as worker:

        @worker.serve("job")
        def job(message):
            raise NotFound("tea")

        told = {"status": "error", "code": "app:not_found", "error": "there is no tea"}
        assert worker.send_request("job", 1).payload == told


def test_a_server_counts_it_by_itself(serve):
    server = serve()
    server.create_application("app").create_channel("job").serve(refuse)
    server.create_application("app").create_channel("later").serve(refuse_later)
    peer = first_peer(server)
    assert peer.ask("job") == peer.ask("later") == TOLD
    counted = server.get_stats()["counters"]
    assert (counted["errors"], counted["handler_failures"]) == ({"app": 2}, 0)


def test_details_are_those_of_the_moment():
    given = {"rows": (1, 2)}
    error = HandlerError("code", "text", given)
    given["rows"] = object()
    assert error.details == {"rows": [1, 2]}


def fail_in_a_pool(what):
    raise NotFound(what)


def test_it_passes_between_processes():
    again = pickle.loads(pickle.dumps(NotFound("tea")))
    assert (type(again), again.code, again.text, again.what) == (NotFound, "app:not_found", "there is no tea", "tea")
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with pytest.raises(NotFound, match="there is no tea"):
            pool.submit(fail_in_a_pool, "tea").result()


def test_a_payload_that_only_looks_like_one(rust):
    async def main():
        async with aio.connect("app", **rust.arguments) as client:
            looks = [
                {"status": "error", "code": "mine", "error": "a value of this application"},
                {"status": "error", "code": "app:mine", "error": "a value", "more": 1},
                {"status": "ok", "code": "app:mine", "error": "a value"},
            ]
            await client.serve("job", lambda message: looks[message.payload])
            for number, payload in enumerate(looks):
                assert (await client.request("job", number)).payload == payload

    asyncio.run(main())
