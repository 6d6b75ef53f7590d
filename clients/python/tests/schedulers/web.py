"""Applications for gunicorn and uvicorn, whose requests are answered by a channel of the server at `IPC_PORT`."""

import json
import os

from ipc_framework import FrameworkClient, aio

ADDRESS = {"host": "127.0.0.1", "port": int(os.environ["IPC_PORT"])}

# Connected where the module is imported: with `--preload` in the process that forks the workers.
client = FrameworkClient("bench", **ADDRESS)
assert client.connect()


def wsgi(environ, start_response):
    if not client.connected:
        # In a forked worker this makes a connection of its own.
        assert client.connect()
    answer = client.send_request("echo", {"pid": os.getpid(), "path": environ["PATH_INFO"]}, 10.0)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer.payload).encode()]


class Asgi:
    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            self.client = await aio.connect("bench", **ADDRESS)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.client.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        answer = await self.client.request("echo", {"pid": os.getpid(), "path": scope["path"]})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer.payload).encode()})


asgi = Asgi()
