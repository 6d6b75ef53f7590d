"""A worker that returns tensors, for `perf/node/tensors.js`: `tensors.py PEER ADDRESS`.

It prints a line once it serves.
"""

import base64
import socket
import struct
import sys
import threading

PEER, ADDRESS = sys.argv[1:3]
HOST, _, PORT = ADDRESS.rpartition(":")
HEADER = struct.Struct(">I")


def serve(handler):
    from ipc_framework import FrameworkClient

    with FrameworkClient("bench", HOST, int(PORT)) as client:
        client.serve("tensor", handler)
        serving()


def tensor(request):
    return {"image": request.payload["image"]}


def tensor_in_base64(request):
    """Makes an array of the text and text of the array, as a model does that has nothing but JSON."""
    import numpy

    data = base64.b64decode(request.payload["image"])
    image = numpy.frombuffer(data, numpy.float32).reshape(request.payload["shape"])
    return {"image": base64.b64encode(image).decode()}


def sockets():
    connection = socket.create_connection((HOST, int(PORT)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=echo, args=(connection,), daemon=True).start()
    serving()


def echo(connection):
    header = bytearray(HEADER.size)
    while receive_into(connection, header):
        data = bytearray(HEADER.unpack(header)[0])
        receive_into(connection, data)
        connection.sendall(header)
        connection.sendall(data)


def receive_into(connection, buffer):
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if count == 0:
            return False
        view = view[count:]
    return True


def serving():
    print("ready", flush=True)
    threading.Event().wait()


{"ipc": lambda: serve(tensor), "ipc-base64": lambda: serve(tensor_in_base64), "sockets": sockets}[PEER]()
