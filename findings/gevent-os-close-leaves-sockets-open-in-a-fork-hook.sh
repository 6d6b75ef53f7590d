#!/usr/bin/env bash
# gevent 25.9.1: after monkey.patch_all(), os.close of a socket returns before the descriptor is closed, and in a hook of
# os.register_at_fork it closes nothing.
#
# Since 25.8.1 the patched os.close leaves the work to the next turn of the thread's hub, unless the descriptor is a
# regular file. A forked child that closes its copies of its parent's sockets in such a hook, and then runs no turn of a
# hub, keeps them: the peer sees no end of the connection as long as the child lives. posix.close, which gevent does not
# replace, closes at once.
#
# Seen with gevent 25.9.1, CPython 3.11.7, Linux 6.18. Output: "os.close: at once open, after a turn closed",
# "posix.close: at once closed, after a turn closed", "child after os.close: open", "child after posix.close: closed".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check gevent==25.9.1
cat > closes.py <<'PYTHON'
from gevent import monkey

monkey.patch_all()

import os
import posix
import socket

import gevent


def state(descriptor):
    try:
        posix.fstat(descriptor)
        return "open"
    except OSError:
        return "closed"


def copy(pair=socket.socketpair()):
    return posix.dup(pair[0].fileno())


ways = {"os.close": os.close, "posix.close": posix.close}
for name, close in ways.items():
    descriptor = copy()
    close(descriptor)
    at_once = state(descriptor)
    gevent.sleep(0.05)
    print(f"{name}: at once {at_once}, after a turn {state(descriptor)}", flush=True)
for name, close in ways.items():
    descriptor = copy()
    found = []

    def in_child(close=close, descriptor=descriptor, found=found):
        if descriptor is not None and state(descriptor) == "open":
            close(descriptor)
            found.append(state(descriptor))

    os.register_at_fork(after_in_child=in_child)
    child = os.fork()
    if child == 0:
        posix.write(1, f"child after {name}: {found[0]}\n".encode())
        posix._exit(0)
    os.waitpid(child, 0)
PYTHON
found=$(venv/bin/python closes.py)
echo "$found"
expected='os.close: at once open, after a turn closed
posix.close: at once closed, after a turn closed
child after os.close: open
child after posix.close: closed'
[ "$found" = "$expected" ]
