#!/usr/bin/env python3
"""Writes vectors.json: bodies with attachments, and what every reader makes of them.

Run it after a change, and commit both. It builds the bodies from PROTOCOL.md alone, with nothing of the
implementations that are tested with them.
"""

import json
import struct
from pathlib import Path

VECTORS = []


def padded(data):
    return data + bytes(-len(data) % 64)


def message(payload, bin_, meta=None, message_type="publish"):
    """JSON of a message. `payload` and `bin_` are JSON text; without `bin_` there is no such member."""
    members = dict(meta or {})
    text = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in members.items())
    if bin_ is not None:
        text += ("," if text else "") + f'"bin":{bin_}'
    head = '{"message_id":"m1","app_id":"app","channel_id":"images","message_type":"%s"' % message_type
    return f'{head},"payload":{payload},"timestamp":1.5,"reply_to":null,"meta":{{{text}}}}}'.encode()


def body(text, datas, json_bytes=None):
    front = struct.pack(">I", len(text) if json_bytes is None else json_bytes) + text
    return padded(front) + b"".join(padded(data) for data in datas)


def entry(pointer, data, dtype=None, shape=None):
    return [pointer, len(data), dtype, shape]


def ok(name, payload, attachments, meta=None, bin_=None, text=None):
    """`attachments` are (pointer, dtype, shape, data)."""
    entries = [entry(pointer, data, dtype, shape) for pointer, dtype, shape, data in attachments]
    text = text or message(payload, bin_ or json.dumps(entries, separators=(",", ":")), meta)
    VECTORS.append({
        "name": name,
        "body": body(text, [data for *_, data in attachments]).hex(),
        "expect": "ok",
        "attachments": [
            {"pointer": pointer, "dtype": dtype, "shape": shape, "data": data.hex()}
            for pointer, dtype, shape, data in attachments
        ],
    })


def bad(name, raw, expect="bad_message"):
    VECTORS.append({"name": name, "body": raw.hex(), "expect": expect, "attachments": []})


def bad_bin(name, payload, bin_, datas):
    text = bin_ if isinstance(bin_, str) else json.dumps(bin_, separators=(",", ":"))
    bad(name, body(message(payload, text), datas))


# Good ones.
ok("plain bytes", '{"image":null}', [("/image", None, None, b"hello")])
ok("the whole payload", "null", [("", None, None, b"hello")])
ok("no bytes", '{"a":null}', [("/a", None, None, b"")])
ok("just 64 bytes", "[null]", [("/0", None, None, bytes(range(64)))])
ok("65 bytes", "[null]", [("/0", None, None, bytes(range(65)))])
SIZES = dict(bool=1, u8=1, i8=1, u16=2, i16=2, f16=2, bf16=2, u32=4, i32=4, f32=4, u64=8, i64=8, f64=8, c64=8, c128=16)
for dtype, size in SIZES.items():
    data = bytes((7 * at + 1) % (2 if dtype == "bool" else 251) for at in range(6 * size))
    ok(f"{dtype}, two by three", '{"t":null}', [("/t", dtype, [2, 3], data)])
ok("f32 of no dimension", '{"t":null}', [("/t", "f32", [], struct.pack("<f", -0.0))])
ok("f32 of special values", '{"t":null}', [
    ("/t", "f32", [5], struct.pack("<IIIII", 0x7FC00001, 0xFFC00000, 0x80000000, 0x00000001, 0x7F800000)),
])
ok("f64 of special values", '{"t":null}', [
    ("/t", "f64", [3], struct.pack("<QQQ", 0x7FF8000000000001, 0x8000000000000000, 1)),
])
ok("u64 and i64 at their ends", '{"u":null,"i":null}', [
    ("/u", "u64", [1], b"\xff" * 8), ("/i", "i64", [2], struct.pack("<qq", -(2**63), 2**63 - 1)),
])
ok("a dimension of zero", '{"t":null}', [("/t", "f64", [3, 0, 4], b"")])
ok("32 dimensions", '{"t":null}', [("/t", "u8", [1] * 32, b"\x07")])
ok("several in order", '{"a":{"x":null,"y":[1,null,2]},"b":null,"c":null}', [
    ("/a/x", None, None, b"1"), ("/a/y/1", "u8", [2], b"22"), ("/c", None, None, b"333"),
])
ok("other nulls stay", '{"a":null,"b":null,"c":[null,null]}', [("/b", None, None, b"b"), ("/c/1", None, None, b"c")])
ok("escapes of a pointer", '{"a/b":null,"m~n":null,"~1":null,"":null," ":null}', [
    ("/a~1b", None, None, b"1"), ("/m~0n", None, None, b"2"), ("/~01", None, None, b"3"),
    ("/", None, None, b"4"), ("/ ", None, None, b"5"),
])
ok("keys by what they mean", '{"\\u0061":null,"\\ud83d\\ude00":{"é":null}}', [
    ("/a", None, None, b"1"), ("/\U0001f600/é", None, None, b"2"),
])
ok("numbers are keys of objects", '{"0":null,"01":null}', [("/0", None, None, b"1"), ("/01", None, None, b"2")])
ok("a key given twice beside the way", '{"z":1,"a":null,"z":{"z":1}}', [("/a", None, None, b"1")])
ok("the user's own $base64", '{"$base64":null}', [("/$base64", None, None, b"1")])
ok("meta of other kinds", '{"a":null}', [("/a", None, None, b"1")], meta={"headers": {"type": "image/png"}})
ok("white space in bin", '{"a":null}', [("/a", "u8", [1, 2], b"12")], bin_=' [ [ "/a" , 2 ,\n"u8", [ 1 , 2 ] ] ] ')
ok("escapes in bin", '{"a":null}', [("/a", "u8", [1], b"1")], bin_='[["\\/\\u0061",1,"\\u00758",[1]]]')
ok("deep", "[" * 120 + "null" + "]" * 120, [("/0" * 120, None, None, b"deep")])

# Lengths, padding and the total.
GOOD = message('{"a":null}', '[["/a",3,null,null]]')
WHOLE = body(GOOD, [b"abc"])
bad("four bytes alone", b"\0\0\0\0")
bad("three bytes", b"\0\0\0")
bad("the JSON longer than the body", body(GOOD, [b"abc"], json_bytes=len(WHOLE)))
bad("the padding longer than the body", struct.pack(">I", len(GOOD)) + GOOD)
bad("the last zero is missing", WHOLE[:-1])
bad("the last block is missing", WHOLE[:-64])
bad("64 bytes too many", WHOLE + bytes(64))
bad("one byte too many", WHOLE + b"\0")
bad("padding of the JSON not zero", WHOLE.replace(GOOD + b"\0", GOOD + b"\1"))
bad("padding of the attachment not zero", WHOLE[:-1] + b"\1")
bad("no padding at all", struct.pack(">I", len(GOOD)) + GOOD + b"abc")
bad("attachment longer than the body", body(message('{"a":null}', '[["/a",3000,null,null]]'), [b"abc"]))
bad("attachment shorter than its bytes", body(message('{"a":null}', '[["/a",2,null,null]]'), [b"abc"]))
bad("attachment of 2^53 bytes", body(message('{"a":null}', '[["/a",9007199254740992,null,null]]'), [b"abc"]))
bad("attachment of 2^64 bytes", body(message('{"a":null}', '[["/a",18446744073709551616,null,null]]'), [b"abc"]))
bad("JSON that is none", body(b'{"message_id":', [b"abc"]), "bad_frame")
bad("JSON that goes on", body(GOOD + b" {}", [b"abc"]), "bad_frame")

# bin.
bad("without bin", body(message('{"a":null}', None), [b"abc"]))
bad("without meta", body(GOOD.replace(b',"meta":{"bin":[["/a",3,null,null]]}', b""), [b"abc"]))
bad("bin in a body of JSON", GOOD)
bad("bin given twice", body(GOOD.replace(b'{"bin"', b'{"bin":[["/a",3,null,null]],"bin"'), [b"abc"]))
bad_bin("bin is null", '{"a":null}', "null", [])
bad_bin("bin is an object", '{"a":null}', "{}", [])
bad_bin("no entries", '{"a":null}', "[]", [])
bad_bin("an entry of three", '{"a":null}', [["/a", 3, None]], [b"abc"])
bad_bin("an entry of five", '{"a":null}', [["/a", 3, None, None, None]], [b"abc"])
bad_bin("an entry that is an object", '{"a":null}', [{"pointer": "/a"}], [b"abc"])
bad_bin("a length with a fraction", '{"a":null}', '[["/a",3.0,null,null]]', [b"abc"])
bad_bin("a length with an exponent", '{"a":null}', '[["/a",3e0,null,null]]', [b"abc"])
bad_bin("a negative length", '{"a":null}', '[["/a",-3,null,null]]', [b"abc"])
bad_bin("a length that is a string", '{"a":null}', '[["/a","3",null,null]]', [b"abc"])
bad_bin("1025 attachments", "null", [["", 0, None, None]] * 1025, [])

# Types and shapes.
bad_bin("an unknown dtype", '{"a":null}', [["/a", 4, "float32", [1]]], [b"abcd"])
bad_bin("a dtype in capitals", '{"a":null}', [["/a", 4, "F32", [1]]], [b"abcd"])
bad_bin("a dtype that is a number", '{"a":null}', [["/a", 4, 4, [1]]], [b"abcd"])
bad_bin("a dtype without a shape", '{"a":null}', [["/a", 4, "f32", None]], [b"abcd"])
bad_bin("a shape without a dtype", '{"a":null}', [["/a", 4, None, [4]]], [b"abcd"])
bad_bin("a shape that is a number", '{"a":null}', [["/a", 4, "f32", 1]], [b"abcd"])
bad_bin("a shape of 33 dimensions", '{"a":null}', [["/a", 1, "u8", [1] * 33]], [b"a"])
bad_bin("a dimension that is negative", '{"a":null}', [["/a", 4, "f32", [-1]]], [b"abcd"])
bad_bin("a dimension with a fraction", '{"a":null}', '[["/a",4,"f32",[1.0]]]', [b"abcd"])
bad_bin("a dimension that is null", '{"a":null}', [["/a", 4, "f32", [None]]], [b"abcd"])
bad_bin("a shape of too few", '{"a":null}', [["/a", 8, "f32", [1]]], [b"abcdefgh"])
bad_bin("a shape of too many", '{"a":null}', [["/a", 4, "f32", [2]]], [b"abcd"])
bad_bin("a shape that overflows to its bytes", '{"a":null}', [["/a", 0, "u8", [2**32, 2**32]]], [])
bad_bin("a shape that overflows to 16", '{"a":null}', [["/a", 16, "u8", [2**60 + 1, 16]]], [b"a" * 16])
bad_bin("no dimension, and no bytes", '{"a":null}', [["/a", 0, "u8", []]], [])

# Pointers.
for name, payload, pointer in [
    ("into nothing", '{"a":null}', "/b"),
    ("to a string", '{"a":"null"}', "/a"),
    ("to an object", '{"a":{}}', "/a"),
    ("to the whole payload, which is an object", '{"a":null}', ""),
    ("to false", '{"a":false}', "/a"),
    ("through a null", '{"a":null}', "/a/b"),
    ("through a string", '{"a":"b"}', "/a/b"),
    ("without a slash", '{"a":null}', "a"),
    ("with a fragment", '{"a":null}', "#/a"),
    ("with a lone tilde", '{"~":null}', "/~"),
    ("with an unknown escape", '{"~2":null}', "/~2"),
    ("that is not unescaped", '{"a~1b":null}', "/a~1b"),
    ("behind the last element", "[null]", "/1"),
    ("to the element after the last", "[null]", "/-"),
    ("to an element with a leading zero", "[null,null]", "/01"),
    ("to an element with a sign", "[null,null]", "/+1"),
    ("to an element without a number", "[null]", "/"),
    ("to an element beyond 2^64", "[null]", "/18446744073709551616"),
    ("to a key in another case", '{"A":null}', "/a"),
    ("through a key given twice", '{"a":null,"a":null}', "/a"),
    ("through a key given twice, once escaped", '{"a":null,"\\u0061":1}', "/a"),
    ("through a key given before", '{"a":1,"a":null}', "/a"),
    ("through an outer key given twice", '{"a":{"b":null},"c":1,"a":2}', "/a/b"),
]:
    bad_bin(f"a pointer {name}", payload, [[pointer, 1, None, None]], [b"x"])
bad_bin("a pointer that is a number", '{"1":null}', [[1, 1, None, None]], [b"x"])
bad_bin("a pointer that is null", "null", [[None, 1, None, None]], [b"x"])
bad_bin("a pointer with half a pair", '{"\\ud800":null}', '[["/\\ud800",1,null,null]]', [b"x"])
two = [b"x", b"y"]
for name, payload, one, other in [
    ("the same twice", '{"a":null}', "/a", "/a"),
    ("not in the order of the payload", '{"a":null,"b":null}', "/b", "/a"),
    ("not in order, in an array", "[null,null]", "/1", "/0"),
    ("not in order, one deeper", '{"a":{"x":null},"b":null}', "/b", "/a/x"),
    ("one through the other", '{"a":null}', "/a", "/a/b"),
    ("one around the other", '{"a":{"b":null}}', "/a/b", "/a"),
    ("the root behind another", '{"a":null}', "/a", ""),
    ("the root twice", "null", "", ""),
    ("the second into nothing", '{"a":null}', "/a", "/b"),
    ("the second in a container that is over", '{"a":{"x":null},"b":null}', "/a/x", "/a/y"),
]:
    bad_bin(f"two pointers, {name}", payload, [[one, 1, None, None], [other, 1, None, None]], two)

lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in VECTORS)
Path(__file__).with_name("vectors.json").write_text(f"[\n{lines}\n]\n")
