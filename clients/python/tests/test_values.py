"""What JSON cannot say is refused, with its place in the payload, and nothing is changed in silence."""

import asyncio
import dataclasses
import datetime
import decimal
import io
import json
import math

import numpy
import pytest
from peers import STEP_SECONDS_MAX
from wire import Peer

from ipc_framework import FrameworkClient, aio
from ipc_framework.exceptions import SerializationError


@dataclasses.dataclass
class Point:
    x: object


class Series:
    """A column of pandas or polars."""

    def to_numpy(self):
        raise AssertionError


class Table(Series):
    columns = ["a"]


class Picture:
    """An image of Pillow."""

    __array_interface__ = {}


CASES = [
    (math.nan, "nan, and JSON has no NaN and no infinity; send None"),
    (-math.inf, "-inf, and JSON has no NaN and no infinity; send None"),
    (numpy.float64("nan"), "no NaN and no infinity"),
    (numpy.float32("nan"), "nan, and JSON has no NaN and no infinity"),
    (numpy.complex64(1j), "of the type numpy.complex64, and JSON has no complex numbers; send [value.real, "),
    (datetime.date(2026, 1, 2), "of the type datetime.date, which JSON cannot say; send value.isoformat()"),
    (Series(), "which JSON cannot say; send value.to_numpy()"),
    (Table(), "which JSON cannot say; send columns, such as value[name].to_numpy(), or all of it as bytes"),
    (Picture(), "which JSON cannot say; send numpy.asarray(value)"),
    (numpy.array([{}]), "an array of the dtype object, which cannot be sent; give it a dtype of numbers"),
    (numpy.zeros(2, "i4,f8"), "an array of the dtype [('f0', '<i4'), ('f1', '<f8')], which cannot be sent; send a"),
    ({1, 2}, "of the type set, which JSON cannot say; send list(value)"),
    (range(3), "of the type range, which JSON cannot say; send list(value)"),
    (io.BytesIO(b"file"), "of the type _io.BytesIO, which JSON cannot say; send its bytes: value.read()"),
    (decimal.Decimal(1), "of the type decimal.Decimal, which JSON cannot say; send a dict"),
    (1j, "of the type complex, which JSON cannot say"),
    (object, "of the type type, which JSON cannot say"),
]
PLACES = [
    (lambda value: value, "payload"),
    (lambda value: {"a": [0, {"b": 1}, "x", value]}, 'payload["a"][3]'),
    (lambda value: [{"deep": (1, Point(value))}], 'payload[0]["deep"][1]["x"]'),
    (lambda value: {'q"uote': value, "later": {1}}, r'payload["q\"uote"]'),
]


@pytest.fixture(scope="module")
def client(rust):
    with FrameworkClient("bench", **rust.arguments) as connected:
        yield connected


@pytest.mark.parametrize("place, path", PLACES)
@pytest.mark.parametrize("value, why", CASES, ids=[str(why) for _, why in CASES])
def test_the_path_to_the_value_is_said(client, value, why, place, path):
    for send in (client.publish, client.send_request, client.notify):
        with pytest.raises(SerializationError) as refused:
            send("echo", place(value))
        assert str(refused.value).startswith(f"{path} is ") and why in str(refused.value)
        assert refused.value.code == "not_json" and not refused.value.may_be_executed
    assert client.send_request("echo", 1).payload == 1


def test_keys_and_circles(client):
    with pytest.raises(SerializationError, match=r'^payload\["a"\] has the key nan, and JSON has no NaN'):
        client.publish("echo", {"a": {math.nan: 1}})
    with pytest.raises(SerializationError, match=r'^payload\["a"\] has the key \(1, 2\) of the type tuple'):
        client.publish("echo", {"a": {(1, 2): 3}})
    circle = {}
    circle["self"] = [circle]
    with pytest.raises(SerializationError, match=r'^payload\["self"\]\[0\] contains itself'):
        client.publish("echo", circle)
    shared = [1]
    assert client.send_request("echo", {"a": [shared, shared], "b": shared}).payload["b"] == [1], "that is no circle"
    point = Point(1)
    point.x = [point]
    with pytest.raises(SerializationError, match=r'^payload\["x"\]\[0\] contains itself'):
        client.publish("echo", point)


def test_what_json_can_say_arrives_as_it_is(client):
    value = {"a": [1, -0.0, 1e300, 2**100, True, None, "żółw", [], {}], "point": Point((1, 2)), "f": numpy.float64(0.1)}
    value["g"], value["n"], value["t"] = numpy.float32(0.1), numpy.uint64(2**64 - 1), numpy.bool_(True)
    answer = client.send_request("echo", value).payload
    assert answer == {**value, "point": {"x": [1, 2]}, "f": 0.1, "g": 0.10000000149011612, "n": 2**64 - 1}
    assert answer["t"] is True
    assert [type(one) for one in answer["a"][:6]] == [int, float, float, int, bool, type(None)]


TEXTS = ["", "plain", "~ ", 'a "quote"', "back\\slash", "line\n", "\x7f", "żółw", "\U0001f422", "\ud800", "x" * 200_000]
TEXTS += ["x" * 64 + last for last in ("é", '"', "\\", "\0", "y")]


def test_texts_have_the_bytes_that_json_gives_them(rust, client):
    peer = Peer(rust, "bench", "raw")
    peer.send("subscribe", "texts", {"connection_id": "raw", "ack": True})
    peer.receive()
    for text in TEXTS:
        client.publish("texts", text)
        message = peer._exactly(int.from_bytes(peer._exactly(4), "big"))
        assert b'"payload":' + json.dumps(text).encode() + b"," in message
        answer = client.send_request("echo", text).payload
        assert answer == text and type(answer) is str


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_an_answer_that_json_cannot_say_tells_the_requester(rust, client, is_coroutine):
    async def later(message):
        return {"mask": [True, 1j]}

    with FrameworkClient("values", **rust.arguments) as worker:
        worker.serve("mask", later if is_coroutine else lambda message: {"mask": [True, 1j]})
        answer = worker.send_request("mask", 1, STEP_SECONDS_MAX).payload
    assert answer["code"] == "handler_failed"
    assert 'payload["mask"][1] is of the type complex, which JSON cannot say; send a dict' in answer["error"]


def test_with_aio(rust):
    async def main():
        async with aio.connect("bench", **rust.arguments) as client:
            for send in (client.publish, client.request, client.notify):
                with pytest.raises(SerializationError, match=r'^payload\["a"\]\[1\] is nan'):
                    await send("echo", {"a": [1, math.nan]})

    asyncio.run(main())


def test_ctrl_c_in_a_payload_is_no_fault_of_the_payload(client):
    class Interrupting(Point):
        def __getattribute__(self, name):
            if name == "x":
                raise KeyboardInterrupt
            return super().__getattribute__(name)

    with pytest.raises(KeyboardInterrupt):
        client.publish("echo", [Interrupting(1)])
