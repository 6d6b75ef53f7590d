#!/usr/bin/env bash
# Two servers that NATS joins: a worker and a subscriber at the first one, a requester and a publisher at the second.
# Needs nats-server, and an `ipc` that was built with the features `cli` and `nats`:
#
#     cargo build --release --features cli,nats && PATH=$PWD/target/release:$PATH examples/two-servers.sh
set -euo pipefail
ipc=${IPC:-ipc} nats_server=${NATS_SERVER:-nats-server}
nats_port=${NATS_PORT:-4222} first=${FIRST_PORT:-8901} second=${SECOND_PORT:-8902}
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$folder"' EXIT

# Tries a command until it succeeds.
until_it_works() {
    for _ in $(seq 300); do
        if "$@" >"$folder/tried" 2>&1; then return; fi
        sleep 0.1
    done
    cat "$folder/tried" >&2
    return 1
}

"$nats_server" --addr 127.0.0.1 --port "$nats_port" 2>"$folder/nats.log" &
for port in "$first" "$second"; do
    "$ipc" serve --port "$port" --nats "nats://127.0.0.1:$nats_port" >/dev/null 2>"$folder/$port.log" &
    until_it_works "$ipc" ping --port "$port" --count 1
done

# The first server has a worker. Clients of the second one find it.
"$ipc" worker double --port "$first" -- sh -c 'read -r number; echo $((2 * number))' 2>"$folder/worker.log" &
until_it_works "$ipc" request double 1 --port "$second"
echo "double 21: $("$ipc" request double 21 --json --port "$second")"

# What is published at the second server arrives at the first.
"$ipc" subscribe news --json --count 1 --port "$first" >"$folder/heard" &
subscriber=$!
while kill -0 "$subscriber" 2>/dev/null; do
    "$ipc" publish news '"from the second server"' --port "$second" >/dev/null
    sleep 0.1
done
grep -o '"from the second server"' "$folder/heard"
