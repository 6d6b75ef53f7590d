#!/usr/bin/env bash
# CPython: an exception that a signal handler raises is lost if the signal comes while garbage is collected and the first
# bytecode that runs afterwards is the callback of a weak reference, such as that of every weakref.WeakSet.
#
# A signal that arrives during a collection is handled by the next bytecode of the main thread. Where a collected object
# was in a WeakSet, that is the set's callback, and the interpreter prints "Exception ignored in" and goes on. A time
# limit by SIGALRM, such as a task queue's, or Ctrl-C, is then no more than a line on standard error. A limit by
# signal.setitimer with an interval is raised again.
#
# Seen with CPython 3.11.7, Linux 6.18, here with a collection that takes longer than the time limit. Output: "ignored in a callback: TimeLimit", "raised: nothing", "raised without the set: TimeLimit".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > loses.py <<'PYTHON'
import gc
import signal
import sys
import weakref


class TimeLimit(Exception):
    pass


class Node:
    pass


def limit(*_):
    raise TimeLimit


ignored = []
sys.unraisablehook = lambda event: ignored.append(event.exc_type.__name__)
signal.signal(signal.SIGALRM, limit)
gc.disable()


def collect(members):
    """Collects cycles, with the time limit at its end while the collector is at work."""
    for _ in range(300_000):
        node = Node()
        node.itself = node
        if members is not None:
            members.add(node)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    try:
        gc.collect()
        for _ in range(50_000_000):
            pass
    except TimeLimit:
        return "TimeLimit"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "nothing"


found = collect(weakref.WeakSet())
print(f"ignored in a callback: {ignored[0] if ignored else 'nothing'}")
print(f"raised: {found}")
print(f"raised without the set: {collect(None)}")
PYTHON
found=$(python3 loses.py)
echo "$found"
expected='ignored in a callback: TimeLimit
raised: nothing
raised without the set: TimeLimit'
[ "$found" = "$expected" ]
