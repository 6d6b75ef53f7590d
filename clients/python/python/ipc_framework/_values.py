"""Values that JSON cannot say, and the places where they stand in a payload."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import tensors
from ._native import attach

#: The ids of the containers around a value, from the innermost on.
Ancestors = Optional[Tuple[int, Any]]


def plain(value: Any) -> Any:
    """Converts values that ``json`` does not know, anywhere in a payload: data classes become objects, scalars of NumPy
    numbers, and bytes, arrays and tensors attachments."""
    number = tensors.number(value)
    if number is not None:
        return number
    attachment = tensors.find(value)
    if attachment is not None:
        return attach(attachment.read(), attachment.dtype, attachment.shape)
    if is_dataclass(value) and not isinstance(value, type):
        return _members(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _members(value: Any) -> Dict[str, Any]:
    """Returns what a data class holds. `asdict` would copy it, also the arrays in it."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def explain(payload: Any, takes_attachments: bool) -> Optional[str]:
    """Returns what is wrong with the first value that cannot be sent, with its path, and what to send instead."""
    left: List[Tuple[str, Any, Ancestors]] = [("payload", payload, None)]
    while left:
        path, value, ancestors = left.pop()
        if is_dataclass(value) and not isinstance(value, type):
            inside: Any = _members(value)
        else:
            inside = value
        if isinstance(inside, (dict, list, tuple)):
            if _is_among(id(value), ancestors):
                return f"{path} contains itself, and JSON cannot say that; send the id of one in its place"
            within = (id(value), ancestors)
            try:
                parts = list(_parts(path, inside))
            except _BadKey as error:
                return str(error)
            left.extend((part, inner, within) for part, inner in reversed(parts))
        else:
            hint = _hint(value, takes_attachments)
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


def _hint(value: Any, takes_attachments: bool) -> Optional[str]:
    """Returns what a value is and what to send in its place; None if it can be sent."""
    if value is None or isinstance(value, (str, int)):
        return None
    try:
        number = value if isinstance(value, float) else tensors.number(value)
        if isinstance(number, float) and not math.isfinite(number):
            return f"{number!r}, and JSON has no NaN and no infinity; send None, a string, or a number"
        if number is not None:
            return None
        if tensors.find(value) is not None:
            if takes_attachments:
                return None
            return f"of the type {_name(value)}, and only JSON can be sent here; send text, such as base64, or a list"
    except tensors.Refused as error:
        return str(error)
    except tensors.REFUSALS as error:
        return f"of the type {_name(value)}, which cannot be read ({error})"
    what = f"of the type {_name(value)}, which JSON cannot say; "
    kind = type(value)
    if hasattr(kind, "isoformat"):
        return what + "send value.isoformat()"
    if hasattr(kind, "columns"):
        return what + "send columns, such as value[name].to_numpy(), or all of it as bytes in the format of Arrow"
    if hasattr(kind, "to_numpy"):
        return what + "send value.to_numpy()"
    if hasattr(kind, "__array_interface__") or hasattr(kind, "__array__"):
        return what + "send numpy.asarray(value)"
    if hasattr(kind, "read"):
        return what + "send its bytes: value.read()"
    if hasattr(kind, "__iter__"):
        return what + "send list(value)"
    return what + "send a dict, a list, a string, a number, a bool, bytes, an array or None"


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
