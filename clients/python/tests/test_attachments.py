"""Bytes, arrays and tensors on their way: every kind of message, both ways, by every part of the package."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import pathlib
import queue
import threading
from typing import Any, Dict, Iterator

import numpy
import pytest

import ipc_framework
from binary import Attachment, BinaryPeer, FakeServer
from ipc_framework import FrameworkClient, Message, MessageType, aio, tensors
from ipc_framework.exceptions import HandlerError, IPCError, SerializationError
from peers import STEP_SECONDS_MAX, PublishedServer, run_program
from test_tensors import BITS, GRID, of_bits

SPEAKS = {"extensions": ["call", "binary"], "limits": {"max_frame_bytes": 16 << 20, "request_timeout_ms": 30_000}}


@dataclasses.dataclass
class Sample:
    name: str
    values: Any


def assert_same(came: Any, given: Any) -> None:
    """Asserts that a payload came as it was given, to the bit."""
    if isinstance(given, numpy.ndarray):
        assert type(came) is numpy.ndarray
        assert (came.dtype.newbyteorder("<"), came.shape) == (given.dtype.newbyteorder("<"), given.shape)
        assert came.tobytes() == given.astype(given.dtype.newbyteorder("<")).tobytes() and not came.flags.writeable
    elif isinstance(given, dict):
        assert list(came) == list(given)
        for key in given:
            assert_same(came[key], given[key])
    elif isinstance(given, list):
        assert len(came) == len(given)
        for pair in zip(came, given):
            assert_same(*pair)
    else:
        assert type(came) is type(given) and came == given


#: A payload with everything in it.
ALL = {
    "bytes": b"\0\xff",
    "none": None,
    "a/b~c": [{"é\n": GRID, "1": None}, b"", numpy.zeros((0, 3), "u2"), 7],
    "0-d": numpy.array(1.5, "f4"),
    **{dtype: of_bits(dtype) for dtype in BITS},
    "large": numpy.arange(100_000, dtype="f8"),
}


@pytest.fixture(scope="module")
def client(rust: Any) -> Iterator[FrameworkClient]:
    with FrameworkClient("bench", **rust.arguments) as worker, FrameworkClient("bench", **rust.arguments) as connected:
        worker.serve("mirror", lambda request: request.payload)
        yield connected


def settle(client: FrameworkClient) -> None:
    """Returns when the server has done all that was sent before."""
    assert client.send_request("system", {"action": "ping"}, timeout=STEP_SECONDS_MAX).payload == {"status": "pong"}


# What is on the wire


def test_the_frame_is_what_the_protocol_says() -> None:
    with FakeServer(lambda payload, attachments: (payload, attachments), **SPEAKS) as server:
        with FrameworkClient("app", port=server.port) as client:
            assert_same(client.send_request("echo", ALL).payload, ALL)
            assert_same(client.send_request("echo", b"alone").payload, b"alone")
            assert client.send_request("echo", {"none": [None]}).payload == {"none": [None]}
            client.publish("news", {"given": bytearray(b"\1\2"), "again": [numpy.float32(0.5), GRID.T]})
            client.notify("note", [Sample("x", GRID[:, ::2].astype(">i4"))])
    all_sent, alone, nothing, news, note = server.read
    assert [one.pointer for one in all_sent[1]][:5] == ["/bytes", "/a~1b~0c/0/é\n", "/a~1b~0c/1", "/a~1b~0c/2", "/0-d"]
    assert alone == (alone[0], [Attachment("", None, None, b"alone")]) and alone[0]["payload"] is None
    assert nothing[1] == [] and "meta" not in nothing[0]
    assert news[0]["payload"] == {"given": None, "again": [0.5, None]}
    assert news[1] == [
        Attachment("/given", None, None, b"\1\2"),
        Attachment("/again/1", "i32", [4, 3, 2], numpy.ascontiguousarray(GRID.T).tobytes()),
    ]
    assert note[0]["payload"] == [{"name": "x", "values": None}]
    assert note[1] == [Attachment("/0/values", "i32", [2, 2, 4], numpy.ascontiguousarray(GRID[:, ::2]).tobytes())]


WRONG_ANSWERS = {
    "pointer into nothing": [Attachment("/b", None, None, b"1")],
    "pointer to a value": [Attachment("/c", None, None, b"1")],
    "wrong length": [Attachment("/a", "u16", [2], b"123")],
    "unknown dtype": [Attachment("/a", "f8", [1], b"1")],
    "doubled": [Attachment("/a", None, None, b"1"), Attachment("/a", None, None, b"1")],
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS)
def test_a_wrong_attachment_is_the_fault_of_its_message(wrong: str) -> None:
    answers = iter([({"a": None, "c": 1}, WRONG_ANSWERS[wrong]), ("fine", [])])
    with FakeServer(lambda *_: next(answers), **SPEAKS) as server:
        with FrameworkClient("app", port=server.port, reconnect=False) as client:
            with pytest.raises(SerializationError, match="attachments are not usable") as refused:
                client.send_request("echo", 1, timeout=STEP_SECONDS_MAX)
            assert refused.value.code == "undecodable" and refused.value.may_be_executed
            assert client.send_request("echo", 2).payload == "fine"


@pytest.mark.parametrize("welcome", [{}, {"extensions": ["call"], "limits": SPEAKS["limits"]}])
def test_a_server_without_attachments(welcome: Dict[str, Any]) -> None:
    with FakeServer(lambda payload, _: (payload, []), **welcome) as server:
        with FrameworkClient("app", port=server.port) as client:
            for send in (client.send_request, client.publish, client.notify):
                with pytest.raises(IPCError) as refused:
                    send("echo", {"image": b"raw"})
                assert refused.value.code == "unsupported" and not refused.value.may_be_executed
                assert "`binary`" in str(refused.value) and "update the server" in str(refused.value)
            assert client.send_request("echo", {"number": numpy.int64(7)}).payload == {"number": 7}
    assert [message["payload"] for message, _ in server.read] == [{"number": 7}]


def test_the_published_server() -> None:
    server = PublishedServer()
    try:
        with FrameworkClient("bench", **server.arguments) as client:
            with pytest.raises(IPCError) as refused:
                client.send_request("echo", b"raw")
            assert refused.value.code == "unsupported"
            assert client.send_request("echo", [numpy.float32(0.5)]).payload == [0.5]
    finally:
        server.stop()


# Through a server


def test_requests(client: FrameworkClient) -> None:
    assert_same(client.send_request("mirror", ALL).payload, ALL)
    answered: "queue.Queue[Message]" = queue.Queue()
    client.send_request_async("mirror", ALL, answered.put)
    assert_same(answered.get(timeout=STEP_SECONDS_MAX).payload, ALL)
    again = client.send_request("mirror", client.send_request("mirror", ALL).payload).payload
    assert_same(again, ALL)


def test_what_was_received_lives_as_long_as_the_program_has_it(client: FrameworkClient) -> None:
    given = numpy.arange(200_000, dtype="u4")
    kept = [client.send_request("mirror", [given + number]).payload[0][::3] for number in range(20)]
    gc.collect()
    client.send_request("mirror", bytes(1 << 20))
    for number, came in enumerate(kept):
        assert (came == (given + number)[::3]).all()
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 1
    mine = kept[0].copy()
    mine[0] = 1


def test_publications_and_notifications(rust: Any, client: FrameworkClient) -> None:
    came: "queue.Queue[Message]" = queue.Queue()
    with FrameworkClient("bench", **rust.arguments) as other:
        other.serve("noted", came.put)
        other.subscribe("pictures", came.put)
        settle(other)
        client.publish("pictures", ALL)
        assert_same(came.get(timeout=STEP_SECONDS_MAX).payload, ALL)
        client.notify("noted", ALL)
        assert_same(came.get(timeout=STEP_SECONDS_MAX).payload, ALL)


async def coroutine(request: Message) -> Any:
    await asyncio.sleep(0)
    return request.payload


def generator(request: Message) -> Iterator[Any]:
    for number, value in enumerate(request.payload.values()):
        yield [number, value]


async def asynchronous_generator(request: Message) -> Any:
    for number, value in enumerate(request.payload.values()):
        yield [number, value]


PARTS = [[number, value] for number, value in enumerate(ALL.values())]
HANDLERS = {
    "function": (lambda request: request.payload, ALL),
    "coroutine": (coroutine, ALL),
    "generator": (generator, PARTS),
    "asynchronous generator": (asynchronous_generator, PARTS),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_workers(rust: Any, client: FrameworkClient, kind: str) -> None:
    handler, expected = HANDLERS[kind]
    with FrameworkClient("bench", **rust.arguments) as worker:
        worker.serve(kind, handler)
        assert_same(client.send_request(kind, ALL, timeout=STEP_SECONDS_MAX).payload, expected)
        parts = [part.payload for part in client.stream(kind, ALL)]
        assert_same(parts, expected if expected is PARTS else [expected])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", HANDLERS)
def test_servers(serve: Any, kind: str, workers: int) -> None:
    handler, expected = HANDLERS[kind]
    server = serve(workers=workers)
    channel = server.create_application("app").create_channel("work")
    channel.serve(handler)
    server.start()
    with FrameworkClient("app", port=server.port) as client:
        assert_same(client.send_request("work", ALL, timeout=STEP_SECONDS_MAX).payload, expected)
        parts = [part.payload for part in client.stream("work", ALL)]
        assert_same(parts, expected if expected is PARTS else [expected])


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_server_sends_by_itself(serve: Any, workers: int) -> None:
    server = serve(workers=workers)
    application = server.create_application("app")
    came: "queue.Queue[Message]" = queue.Queue()
    application.create_channel("note").set_handler(MessageType.NOTIFICATION, came.put)

    def handle(message: Message) -> None:
        server.send_to_connection(None, message.create_response({"had": message.payload}))

    application.create_channel("ask").set_handler(MessageType.REQUEST, handle)
    server.start()
    with FrameworkClient("app", port=server.port) as client:
        client.notify("note", ALL)
        assert_same(came.get(timeout=STEP_SECONDS_MAX).payload, ALL)
        assert_same(client.send_request("ask", ALL, timeout=STEP_SECONDS_MAX).payload, {"had": ALL})
        client.subscribe("news", came.put)
        client.subscribe("own", came.put)
        settle(client)
        server.broadcast_to_application("app", Message("", "app", "news", MessageType.PUBLISH, ALL, 0))
        assert_same(came.get(timeout=STEP_SECONDS_MAX).payload, ALL)
        message = Message("", "app", "own", MessageType.PUBLISH, ALL, 0)
        (connection,) = server.client_sockets.values()
        server.send_to_connection(connection, message)
        assert_same(came.get(timeout=STEP_SECONDS_MAX).payload, ALL)


@pytest.mark.parametrize("workers", [0, 2])
def test_peers_without_attachments_get_base64_from_a_server(serve: Any, workers: int) -> None:
    server = serve(workers=workers)
    application = server.create_application("app")
    application.create_channel("work").serve(lambda request: ALL)
    application.create_channel("parts").serve(lambda request: (value for value in PARTS))
    server.start()
    with BinaryPeer(server.port, "app", extensions=[]) as plain:
        for channel_id, expected in (("work", ALL), ("parts", PARTS)):
            payload, attachments = plain.ask(channel_id, None)
            assert attachments == []
            assert_same(ipc_framework.from_base64(payload), expected)


def test_aio(rust: Any) -> None:
    async def main() -> None:
        async with aio.connect("bench", **rust.arguments) as client:
            assert_same((await client.request("mirror", ALL)).payload, ALL)
            client.serve("aio", coroutine)
            client.serve("parts", asynchronous_generator)
            news = client.subscribe("aio-news")
            await client.ready()
            assert_same((await client.request("aio", ALL)).payload, ALL)
            assert_same([part.payload async for part in client.stream("parts", ALL)], PARTS)
            await client.publish("aio-news", ALL)
            async for message in news:
                assert_same(message.payload, ALL)
                break

    asyncio.run(main())


def test_peers_without_attachments_get_base64(rust: Any, client: FrameworkClient) -> None:
    with BinaryPeer(rust.port, "bench", extensions=[]) as plain:
        plain.send("subscribe", "base64", {"connection_id": "raw", "ack": True})
        plain.receive()
        client.publish("base64", ALL)
        message, attachments = plain.receive()
        assert attachments == [] and message["payload"]["bytes"] == {"$base64": "AP8=", "dtype": None, "shape": None}
        assert_same(ipc_framework.from_base64(message["payload"]), ALL)


def test_a_thread_that_writes_to_an_array_meanwhile(client: FrameworkClient) -> None:
    given = numpy.zeros(1 << 20, "u1")
    is_over = threading.Event()

    def write() -> None:
        while not is_over.is_set():
            given[:] += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(10):
            assert client.send_request("mirror", [given]).payload[0].shape == given.shape
    finally:
        is_over.set()
        thread.join()


# Refusals


def test_what_is_refused_has_its_place(client: FrameworkClient) -> None:
    for send in (client.publish, client.send_request, client.notify):
        with pytest.raises(SerializationError, match=r'^payload\["a"\]\[1\] is an array of the dtype object') as told:
            send("mirror", {"a": [b"fine", numpy.array([object()])]})
        assert told.value.code == "not_json"
        with pytest.raises(SerializationError, match=r'two keys that are "1" in JSON'):
            send("mirror", {1: b"", "1": 2})
        with pytest.raises(SerializationError, match=r"has 1025 values of bytes and arrays, .* at most 1024; join"):
            send("mirror", [b""] * 1_025)
        with pytest.raises(SerializationError, match="is not Unicode; rename it"):
            send("mirror", {"\ud800": b""})
    assert client.send_request("mirror", {1: 2, "a": [b""], "\ud800": 3}).payload == {"1": 2, "a": [b""], "\ud800": 3}
    assert len(client.send_request("mirror", [b""] * 1_024).payload) == 1_024


def test_errors_have_no_attachments() -> None:
    with pytest.raises(TypeError, match=r'payload\["details"\]\["raw"\] is of the type bytes, and only JSON can be'):
        HandlerError("bad", "text", {"raw": b"1"})
    assert HandlerError("bad", "text", {"number": numpy.int8(1)}).details == {"number": 1}


def test_an_error_that_is_made_within_a_payload_has_none_either(client: FrameworkClient) -> None:
    class Grid:
        def __dlpack__(self, **options: Any) -> Any:
            with pytest.raises(TypeError, match="and only JSON can be"):
                HandlerError("bad", "text", {"raw": b"1"})
            return GRID.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return GRID.__dlpack_device__()

    assert_same(client.send_request("mirror", {"before": b"2", "grid": Grid()}).payload, {"before": b"2", "grid": GRID})


def test_what_is_too_large_around_its_attachments_is_refused_and_not_lost(serve: Any) -> None:
    server = serve(limits={"frame_bytes_max": 100_000})
    server.create_application("app").create_channel("own")
    server.start()
    came: "queue.Queue[Message]" = queue.Queue()
    refused = 0
    with FrameworkClient("app", port=server.port) as client:
        client.subscribe("own", came.put)
        settle(client)
        (connection,) = server.client_sockets.values()
        # Each of the 900 has a byte, and with its place and the zeros behind it about 90 in the frame.
        sizes = range(10_000, 90_000, 2_000)
        for size in sizes:
            payload = [b"1"] * 900 + [bytes(size)]
            try:
                server.send_to_connection(connection, Message("", "app", "own", MessageType.PUBLISH, payload, 0))
            except ValueError as error:
                assert "frame_bytes_max" in str(error)
                refused += 1
            else:
                assert len(came.get(timeout=STEP_SECONDS_MAX).payload[-1]) == size
    assert 0 < refused < len(sizes)


def test_too_large_a_message_names_the_limit(client: FrameworkClient) -> None:
    for send in (client.publish, client.send_request):
        with pytest.raises(SerializationError) as refused:
            send("mirror", {"image": bytes(17 << 20)})
        assert refused.value.code == "too_large"
        for word in ("frame_bytes_max", "--max-frame-bytes", "in parts"):
            assert word in str(refused.value), word
    assert client.send_request("mirror", 1).payload == 1


def test_an_answer_that_cannot_be_sent_tells_the_requester(rust: Any, client: FrameworkClient) -> None:
    with FrameworkClient("bench", **rust.arguments) as worker:
        worker.serve("objects", lambda request: {"a": numpy.array([object()])})
        answer = client.send_request("objects", 1, timeout=STEP_SECONDS_MAX).payload
    assert answer["code"] == "handler_failed" and 'payload["a"] is an array of the dtype object' in answer["error"]


# The vectors that all clients have


VECTORS = json.loads((pathlib.Path(__file__).resolve().parents[3] / "tests" / "binary" / "vectors.json").read_text())


def at(payload: Any, pointer: str) -> Any:
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        payload = payload[int(key) if isinstance(payload, list) else key]
    return payload


def test_every_good_vector() -> None:
    good = [vector for vector in VECTORS if vector["expect"] == "ok"]
    came: "queue.Queue[Message]" = queue.Queue()
    with FakeServer(lambda *_: (None, []), **SPEAKS) as server:
        with FrameworkClient("app", port=server.port) as client:
            client.subscribe("images", came.put)
            server.first = [bytes.fromhex(vector["body"]) for vector in good]
            client.send_request("now", None)
            for vector in good:
                payload = came.get(timeout=STEP_SECONDS_MAX).payload
                for attachment in vector["attachments"]:
                    value, data = at(payload, attachment["pointer"]), bytes.fromhex(attachment["data"])
                    if attachment["dtype"] is None:
                        assert type(value) is bytes and value == data, vector["name"]
                        continue
                    found = tensors.find(value)
                    assert found is not None and found.read() == data, vector["name"]
                    assert [found.dtype, list(found.shape)] == [attachment["dtype"], attachment["shape"]]
    assert came.empty() and len(good) > 30


@pytest.mark.parametrize("vector", [one for one in VECTORS if one["expect"] != "ok"], ids=lambda one: one["name"])
def test_every_bad_vector(vector: Any) -> None:
    came: "queue.Queue[Message]" = queue.Queue()
    with FakeServer(lambda *_: ("fine", []), **SPEAKS) as server:
        with FrameworkClient("app", port=server.port, reconnect=(0.001, 0.01)) as client:
            client.subscribe("images", came.put)
            server.first = [bytes.fromhex(vector["body"])]
            # What is not even a message ends the connection, and with it this request.
            with contextlib.suppress(ConnectionError):
                assert client.send_request("now", None, timeout=STEP_SECONDS_MAX).payload == "fine"
            server.first = [bytes.fromhex(VECTORS[0]["body"])]
            assert client.send_request("now", None, timeout=STEP_SECONDS_MAX).payload == "fine"
            assert came.get(timeout=STEP_SECONDS_MAX).payload == {"image": b"hello"} and came.empty()


WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
from ipc_framework import FrameworkClient, Tensor
with FrameworkClient("bench", port=int(sys.argv[1])) as client:
    given = Tensor("f32", [1, 2], b"\\0\\0\\x80\\x3f\\0\\0\\0\\x40")
    came = client.send_request("mirror", {"a": given, "b": b"1"}).payload
    print(came, came["a"] == given, came["a"].tolist(), came["a"].data.readonly)
"""


def test_without_numpy(rust: Any) -> None:
    ended = run_program(WITHOUT_NUMPY.replace("sys.argv[1]", str(rust.port)))
    assert ended.stderr == ""
    assert ended.stdout == "{'a': <Tensor f32 [1, 2], 8 bytes>, 'b': b'1'} True [[1.0, 2.0]] True\n"
