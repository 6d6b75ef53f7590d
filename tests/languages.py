#!/usr/bin/env python3
"""Sends arrays of every type from each language to each: `python3 tests/languages.py`.

Each language serves a channel that answers with the value that it was given, as that language holds it, and asks all
of these channels. So does the command line, from files and into files. What comes back has the bits that were sent: of
numbers that are none, of negative zeros and of the smallest and largest numbers, in arrays of several dimensions, of
one and of none, and in empty ones.

It needs the program and that in Rust (`cargo build --all-features --bin ipc --example languages_peer`), the environment
of tests/python.py, and clients/node as `npm ci` leaves it.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests" / "interop"))

from processes import BINARY, Process, RustServer  # noqa: E402

HERE = REPO / "tests" / "languages"
PYTHON = REPO / "target" / f"python-venv-{os.environ.get('IPC_PYTHON_PROFILE', 'dev')}" / "bin" / "python"
RUST = REPO / "target" / "debug" / "examples" / "languages_peer"
LANGUAGES = {"python": (PYTHON, HERE / "peer.py"), "node": ("node", HERE / "peer.js"), "rust": (RUST,)}

#: Numbers of which an arithmetic, or a text, would not keep the bits. They come as unsigned integers.
SPECIAL = {
    "f16": ("<H", [0x7E01, 0xFC00, 0x8000, 0x0001, 0x7BFF, 0x3C00]),
    "bf16": ("<H", [0x7FC1, 0xFF80, 0x8000, 0x0001, 0x7F7F, 0x3F80]),
    "f32": ("<I", [0x7FC00001, 0xFF800000, 0x80000000, 0x00000001, 0x7F7FFFFF, 0x3F800000]),
    "f64": ("<Q", [0x7FF8000000000001, 0xFFF0000000000000, 1 << 63, 1, 0x7FEFFFFFFFFFFFFF, 0x3FF0000000000000]),
}
ITEM_BYTES = {
    **{"bool": 1, "u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8},
    **{"f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16},
}


def six(dtype: str) -> bytes:
    """Six elements of a type."""
    of = {"c64": "f32", "c128": "f64"}.get(dtype, dtype)
    if of in SPECIAL:
        code, numbers = SPECIAL[of]
        numbers = [number for number in numbers for _ in range(2)] if of != dtype else numbers
        return b"".join(struct.pack(code, number) for number in numbers)
    if dtype == "bool":
        return bytes([0, 1, 1, 0, 1, 0])
    return bytes((37 * at + 255) % 256 for at in range(6 * ITEM_BYTES[dtype]))


def table() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"dtype": None, "shape": None, "data": data} for data in ("", "00ff80")]
    for dtype, item_bytes in ITEM_BYTES.items():
        data = six(dtype)
        for shape, count in (([2, 3], 6), ([6], 6), ([1, 2, 1, 3], 6), ([], 1), ([0], 0), ([3, 0, 2], 0)):
            rows.append({"dtype": dtype, "shape": shape, "data": data[: count * item_bytes].hex()})
    # Larger than what is copied, read or written in one piece.
    rows.append({"dtype": "f32", "shape": [224, 224, 3], "data": (six("f32") * 25_088).hex()})
    return rows


def ask_by_command_line(port: int, channel: str, folder: pathlib.Path) -> str:
    """Sends every row from a file, and reads the file into which the answer was saved."""
    alike = 0
    sent = folder / "sent"
    for row in table():
        sent.write_bytes(bytes.fromhex(str(row["data"])))
        kind = "" if row["dtype"] is None else f":{row['dtype']}:{','.join(map(str, row['shape']))}"
        command = [BINARY, "request", channel, '{"name":"cli","value":null}', "--attach", f"/value=@{sent}{kind}"]
        command += ["--port", str(port), "--app", "bench", "--save", str(folder / "saved"), "--json"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            return f"{row['dtype']} {row['shape']}: {answer.stderr}"
        shown = json.loads(answer.stdout)["again"][0]
        dtype, shape, path = re.fullmatch(r"<(?:(\w+) \[([\d,]*)\], )?\d+ bytes in (.*)>", shown).groups()
        sizes = None if dtype is None else [int(size) for size in shape.split(",") if size]
        got = {"dtype": dtype, "shape": sizes, "data": pathlib.Path(path).read_bytes().hex()}
        if got != row:
            return f"{row['dtype']} {row['shape']} came back as {shown}"
        alike += 1
    return f"{alike} of {len(table())} alike"


def main() -> int:
    failures = 0
    server = RustServer()
    workers: list[Process] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = pathlib.Path(folder, "table.json")
            rows.write_text(json.dumps(table()))
            for name, program in LANGUAGES.items():
                workers.append(Process(*program, server.port, "serve", name))
                workers[-1].expect("serves")
            for asker, program in LANGUAGES.items():
                for name in LANGUAGES:
                    process = Process(*program, server.port, "ask", name, rows)
                    status = process.wait()
                    words = process.output.strip()
                    print(f"{asker} asks {name}: {words}")
                    failures += status != 0 or words != f"{len(table())} of {len(table())} alike"
            for name in LANGUAGES:
                words = ask_by_command_line(server.port, name, pathlib.Path(folder))
                print(f"the command line asks {name}: {words}")
                failures += words != f"{len(table())} of {len(table())} alike"
    finally:
        for worker in workers:
            worker.kill()
    server.stop()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
