"""Patches the program as `gevent` or `eventlet` does, by its first argument. Imported before anything else."""

import sys

scheduler = sys.argv[1]
if scheduler == "gevent":
    from gevent import monkey

    monkey.patch_all()
else:
    import eventlet

    eventlet.monkey_patch()

import threading  # noqa: E402
import time  # noqa: E402

#: Grows by one every 10 ms, as long as other greenlets run.
ticks = []


def tick():
    while True:
        ticks.append(1)
        time.sleep(0.01)


def start_ticking():
    threading.Thread(target=tick, daemon=True).start()
