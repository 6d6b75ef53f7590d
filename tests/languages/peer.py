"""Serves or asks as a program in Python: `peer.py PORT serve CHANNEL`, `peer.py PORT ask CHANNEL TABLE`."""

import json
import sys
from pathlib import Path

import numpy
from ipc_framework import FrameworkClient, Tensor

NUMPY = {
    **{"bool": "bool", "u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "u32": "uint32"},
    **{"i32": "int32", "u64": "uint64", "i64": "int64", "f16": "float16", "f32": "float32", "f64": "float64"},
    **{"c64": "complex64", "c128": "complex128"},
}
NAMES = {name: dtype for dtype, name in NUMPY.items()}


def made(row):
    """What a program in this language has in its hands: an array of NumPy where there is a type for it."""
    data = bytes.fromhex(row["data"])
    if row["dtype"] is None:
        return data
    if row["dtype"] not in NUMPY:
        return Tensor(row["dtype"], row["shape"], data)
    return numpy.frombuffer(data, NUMPY[row["dtype"]]).reshape(row["shape"])


def described(value):
    if isinstance(value, bytes):
        return {"dtype": None, "shape": None, "data": value.hex()}
    if isinstance(value, Tensor):
        return {"dtype": value.dtype, "shape": list(value.shape), "data": bytes(value.data).hex()}
    name = NAMES.get(value.dtype.name, "bf16")
    return {"dtype": name, "shape": list(value.shape), "data": value.tobytes().hex()}


def main(port, action, channel, table=None):
    with FrameworkClient("bench", port=int(port)) as client:
        if action == "serve":
            client.serve(channel, lambda request: {**request.payload, "again": [request.payload["value"]]})
            print("serves", flush=True)
            client.wait()
            return
        rows = json.loads(Path(table).read_text())
        alike = 0
        for row in rows:
            payload = client.send_request(channel, {"name": "ä", "value": made(row)}).payload
            got = described(payload["again"][0])
            if payload["name"] == "ä" and got == row:
                alike += 1
            else:
                print(row["dtype"], row["shape"], "came back as", got)
        print(alike, "of", len(rows), "alike")


main(*sys.argv[1:])
