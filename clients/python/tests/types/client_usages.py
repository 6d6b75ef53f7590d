"""What programs write with the clients; mypy has to accept it as it stands, and to know each type."""

import asyncio
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional, Tuple

from typing_extensions import assert_type

from ipc_framework import FrameworkClient, HandlerError, Message, MessageType, Position, Tensor, aio, from_base64
from ipc_framework.exceptions import ConnectionError, IPCError, TimeoutError
from ipc_framework.tls import Tls


class Tracing(FrameworkClient):
    def _send_message(self, message: Message) -> str:
        print(message.to_dict())
        return super()._send_message(message)

    def handle_message(self, message: Message) -> None:
        super().handle_message(message)


def tensors(client: FrameworkClient) -> None:
    tensor = Tensor("f32", [1, 2], b"12345678")
    assert_type(tensor.dtype, str)
    assert_type(tensor.shape, Tuple[int, ...])
    assert_type(tensor.data, memoryview)
    client.publish("channel", {"tensor": Tensor("u8", (2,), bytearray(2)), "bytes": b"raw"})
    assert_type(from_base64({"$base64": "AA==", "dtype": None, "shape": None}), Any)


def threads() -> None:
    client = FrameworkClient("app", "localhost", 8888, 10.0)
    assert_type(client.connect(), bool)
    assert_type(client.connected, bool)
    answer = client.send_request("channel", {"number": 1}, timeout=2.5)
    assert_type(answer, Optional[Message])
    if answer:
        assert_type(answer.message_type, MessageType)
    assert_type(client.send_request_async("channel", [1], lambda message: print(message.payload)), str)
    assert_type(client.subscribe("channel", lambda message: print(message.payload)), bool)
    assert_type(client.publish("channel", None), str)
    assert_type(client.publish("channel", None, retain=True), str)
    assert_type(client.publish("channel", None, acknowledged=True, timeout=1.0), Optional[Position])
    assert_type(client.subscribe("channel", last=1, since=("epoch", 1), conflate=True), bool)
    assert_type(client.subscribe_pattern("a.>", lambda message: print(message.offset), last=1), bool)
    assert_type(client.unsubscribe_pattern("a.>"), bool)
    assert_type(client.notify("channel", 1.5), str)
    assert_type(client.send_message("channel", MessageType.RESPONSE, 1, reply_to="id"), str)
    assert_type(client.wait_for_message("channel"), Optional[Message])
    assert_type(client.ping(), bool)
    assert_type(client.get_connection_info(), Dict[str, Any])
    assert_type(client.pending_responses, Dict[str, Message])
    assert_type(client.close(timeout=1.0), bool)
    client.disconnect()
    FrameworkClient("app", tls=True)
    with Tracing("app", unix="/run/ipc.sock", token="secret", reconnect=(0.1, 2.0), verbose=True) as tracing:
        assert_type(tracing, Tracing)
        client.on_event(lambda event: print(event.name, event.error, event.unconfirmed))

        @tracing.serve("square", concurrency=4)
        def square(message: Message) -> int:
            return int(message.payload) ** 2

        assert_type(square(Message("", "app", "square", MessageType.REQUEST, 2, 0)), int)

        @tracing.serve("tokens")
        def tokens(message: Message) -> Iterator[str]:
            assert_type(message.remaining, Optional[float])
            if not message.cancelled.is_set() and not message.cancelled.wait(0.1):
                yield "a"
            raise HandlerError("bad_input", "the text is empty", {"at": 1})

    for part in client.stream("tokens", "text", timeout=2.5):
        assert_type(part, Message)
    with client.stream("tokens") as stream:
        stream.close()
    try:
        pass
    except TimeoutError as error:
        assert_type(error.may_be_executed, bool)
    except (ConnectionError, IPCError) as failure:
        assert_type(failure.code, Optional[str])
        assert_type(failure.is_application, bool)


async def loops() -> List[Any]:
    payloads: List[Any] = []
    async with aio.connect("app", port=8888, request_timeout=None) as client:
        assert_type(client, aio.Client)
        assert_type(await client.request("channel", {"number": 1}), Message)
        await client.publish("channel", 1)
        assert_type(await client.publish("channel", 1, acknowledged=True), Optional[Position])
        prices = client.subscribe_pattern("prices.>", last=1, conflate=True, messages_max=10)
        assert_type(prices, aio.Subscription)
        await client.notify("channel", 1)
        assert_type(await client.ping(), float)

        @client.serve("square")
        async def square(message: Message) -> int:
            return int(message.payload) ** 2

        assert_type(await square(Message("", "app", "square", MessageType.REQUEST, 2, 0)), int)
        await client.serve("other", square, concurrency=2)

        @client.serve("tokens")
        async def tokens(message: Message) -> AsyncIterator[str]:
            yield "a"

        async for part in client.stream("tokens", "text", timeout=2.5):
            assert_type(part, Message)
        async with client.stream("tokens") as stream:
            assert_type(stream, aio.Stream)
            await stream.aclose()
        await client.ready()
        async for message in client.subscribe("news", since=Position("epoch", 1), last=5):
            assert_type(message, Message)
            assert_type(message.position, Optional[Position])
            assert_type(message.retained, bool)
            payloads.append(message.payload)
        async with client.subscribe("news") as news:
            assert_type(news, aio.Subscription)
    other = await aio.connect("app", tls=Tls(ca="ca.pem", cert=Path("client.pem"), key="client.key", name="ipc"))
    assert_type(other, aio.Client)
    assert_type(await other.close(), bool)
    return payloads


if __name__ == "__main__":
    threads()
    asyncio.run(loops())
