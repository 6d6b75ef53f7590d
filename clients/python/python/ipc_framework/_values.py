"""Values that JSON cannot say, and the places where they stand in a payload."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, is_dataclass
from typing import Any, Iterator, List, Optional, Tuple

#: The ids of the containers around a value, from the innermost on.
Ancestors = Optional[Tuple[int, Any]]


def plain(value: Any) -> Any:
    """Converts values that ``json`` does not know: data classes anywhere in a payload become objects."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def explain(payload: Any) -> Optional[str]:
    """Returns what is wrong with the first value that JSON cannot say, with its path, and what to send instead."""
    left: List[Tuple[str, Any, Ancestors]] = [("payload", payload, None)]
    while left:
        path, value, ancestors = left.pop()
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, (dict, list, tuple)):
            if _is_among(id(value), ancestors):
                return f"{path} contains itself, and JSON cannot say that; send the id of one in its place"
            within = (id(value), ancestors)
            try:
                parts = list(_parts(path, value))
            except _BadKey as error:
                return str(error)
            left.extend((part, inner, within) for part, inner in reversed(parts))
        else:
            hint = _hint(value)
            if hint is not None:
                return f"{path} is {hint}"
    return None


class _BadKey(Exception):
    pass


def _parts(path: str, value: Any) -> Iterator[Tuple[str, Any]]:
    if not isinstance(value, dict):
        for index, inner in enumerate(value):
            yield f"{path}[{index}]", inner
        return
    for key, inner in value.items():
        if not isinstance(key, (str, int, float, type(None))):
            raise _BadKey(f"{path} has the key {key!r} of the type {_name(key)}, and keys of JSON are strings")
        if isinstance(key, float) and not math.isfinite(key):
            raise _BadKey(f"{path} has the key {key!r}, and JSON has no NaN and no infinity; send a string")
        yield f"{path}[{json.dumps(key)}]", inner


def _is_among(identity: int, ancestors: Ancestors) -> bool:
    while ancestors is not None:
        if ancestors[0] == identity:
            return True
        ancestors = ancestors[1]
    return False


def _hint(value: Any) -> Optional[str]:
    """Returns what a value is and what to send in its place; None if JSON can say it."""
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return f"{value!r}, and JSON has no NaN and no infinity; send None, a string, or a number"
    if value is None or isinstance(value, (str, int)):
        return None
    what = f"of the type {_name(value)}, which JSON cannot say; "
    if type(value).__module__.partition(".")[0] == "numpy":
        # Arrays and scalars have both.
        return what + ("send value.tolist()" if getattr(value, "shape", ()) else "send value.item()")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return what + "send text, such as base64.b64encode(value).decode()"
    if isinstance(value, (set, frozenset)):
        return what + "send list(value)"
    return what + "send a dict, a list, a string, a number, a bool or None"


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
