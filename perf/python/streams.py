"""A worker that streams, for `perf/node/streams.js`: `streams.py PEER ADDRESS`. Prints a line when it serves.

Every peer is used as its documentation says, on asyncio, with JSON on both sides. A request has the number of parts
that it wants.
"""

import asyncio
import json
import sys
import time

PEER, ADDRESS = sys.argv[1:3]
HOST, _, PORT = ADDRESS.rpartition(":")
TOKEN = " token"
#: More streams than are asked for side by side.
STREAMS_MAX = 1_000


def part(index):
    return {"token": TOKEN, "index": index}


async def serve_ipc():
    from ipc_framework import aio

    #: The times at which streams ended, by their names.
    ends = {}

    def end_of(name):
        return ends.setdefault(name, asyncio.get_running_loop().create_future())

    async def tokens(request):
        for index in range(request.payload["parts"]):
            yield part(index)

    async def endless(request):
        try:
            yield request.payload
            await asyncio.sleep(3600)
        finally:
            end_of(request.payload).set_result(time.monotonic_ns())

    async def known(request):
        return await end_of(request.payload)

    async def echo(request):
        return request.payload

    async with aio.connect("bench", HOST, int(PORT)) as client:
        for channel, handler in (("tokens", tokens), ("endless", endless), ("known", known), ("echo-of-worker", echo)):
            await client.serve(channel, handler, concurrency=STREAMS_MAX)
        await serving()


async def serve_nats():
    import nats

    client = await nats.connect(f"nats://{ADDRESS}")
    streaming = set()

    async def stream(message):
        for index in range(json.loads(message.data)["parts"]):
            await message.respond(json.dumps(part(index)).encode())
        # The sentinel of `requestMany`.
        await message.respond(b"")

    async def respond(message):
        # Otherwise the next stream would begin when this one has ended.
        task = asyncio.create_task(stream(message))
        streaming.add(task)
        task.add_done_callback(streaming.discard)

    await client.subscribe("tokens", cb=respond)
    await client.flush()
    await serving()


async def serve_grpc():
    import grpc

    async def tokens(request, context):
        for index in range(request["parts"]):
            yield part(index)

    handler = grpc.unary_stream_rpc_method_handler(
        tokens, request_deserializer=json.loads, response_serializer=lambda value: json.dumps(value).encode()
    )
    async def echo(request, context):
        return request

    # Bytes go as they are where no serializer is named.
    methods = {"Tokens": handler, "Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("perf.Streams", methods),))
    port = server.add_insecure_port(ADDRESS)
    await server.start()
    await serving(f"listening on {HOST}:{port}")


async def serving(says="ready"):
    print(says, flush=True)
    await asyncio.Event().wait()


asyncio.run({"ipc": serve_ipc, "nats": serve_nats, "grpc": serve_grpc}[PEER]())
