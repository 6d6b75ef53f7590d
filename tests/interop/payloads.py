"""Payloads that a server would damage if it looked into them or rewrote them."""

import json


def nested(depth: int):
    value = "the innermost"
    for level in range(depth):
        value = [value] if level % 2 else {"level": level, "inside": value}
    return value


PAYLOADS = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "a negative float": -0.1,
    "negative zero": -0.0,
    "a float at the end of the range": 1.7976931348623157e308,
    "the smallest float": 5e-324,
    "above 2**53": 2**53 + 1,
    "above 2**64": 2**64 + 1,
    "300 digits": 10**300 - 1,
    "an empty string": "",
    "a string": "plain",
    "scripts and emoji": "żółw, 日本語, עברית, 👩‍👩‍👧",
    "controls and quotes": "\x00\x1f\x7f \"quoted\" \\ / \n\r\t \u2028",
    "a lone surrogate": "\ud800",
    "an empty list": [],
    "a list of everything": [None, True, 1, 1.0, "1", [], {}],
    "an empty object": {},
    "keys of all kinds": {"": 0, "żółw": 1, "a b": 2, "\n": 3, "é": 4, "e\u0301": 5},
    "keys of the envelope": {"message_id": "x", "reply_to": "y", "payload": {"payload": None}, "message_type": "bogus"},
    "an error of the user's own": {"status": "error", "code": "no_handler", "error": "not the server's"},
    "nested": nested(32),
}


def same(one, other) -> bool:
    """Compares as JSON. Python would treat 1, 1.0 and True as equal, and ignore the order of keys."""
    return json.dumps(one) == json.dumps(other)
