"""ZeroMQ as a server in the middle: `zeromq_server.py echo` or `zeromq_server.py relay`.

All messages pass through libzmq's own proxy loop, which is native code: this program only
makes the sockets. A ROUTER that is both ends of a proxy returns every message to its sender.
"""

import sys

import zmq


ATTEMPTS_MAX = 100


def socket(context, kind):
    made = context.socket(kind)
    # The generator bounds what is in flight; nothing may be dropped below that.
    made.setsockopt(zmq.SNDHWM, 0)
    made.setsockopt(zmq.RCVHWM, 0)
    return made


def bind_neighbours(publishers, subscribers):
    """Publishers get a port, and subscribers the next one, so that one number tells both."""
    for _ in range(ATTEMPTS_MAX):
        port = publishers.bind_to_random_port("tcp://127.0.0.1")
        try:
            subscribers.bind(f"tcp://127.0.0.1:{port + 1}")
            return port
        except zmq.ZMQError:
            publishers.unbind(f"tcp://127.0.0.1:{port}")
    sys.exit("no two neighbouring ports are free")


context = zmq.Context(io_threads=1)
if sys.argv[1] == "echo":
    front = back = socket(context, zmq.ROUTER)
    port = front.bind_to_random_port("tcp://127.0.0.1")
else:
    front, back = socket(context, zmq.XSUB), socket(context, zmq.XPUB)
    port = bind_neighbours(front, back)
print(f"listening on 127.0.0.1:{port}", flush=True)
zmq.proxy(front, back)
