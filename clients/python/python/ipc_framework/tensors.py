"""Bytes, arrays and tensors in payloads: what is sent beside the JSON of a message, and what is received.

``bytes``, ``bytearray`` and one-dimensional memoryviews of unsigned bytes arrive as ``bytes``. ``array.array``, NumPy
arrays, other objects with a buffer and those with ``__dlpack__`` arrive as NumPy arrays, or as a `Tensor` where NumPy
is not installed or has no such type. NumPy is imported when the first tensor arrives, and never for sending.
"""

from __future__ import annotations

import struct
import sys
from itertools import takewhile
from math import prod
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

from ._native import Memory

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Tensor", "from_base64"]

#: The most dimensions of a tensor.
DIMENSIONS_MAX = 32
#: The most lists that `Tensor.tolist` makes without an element in them. A peer could send any number in a few bytes.
EMPTY_ROWS_MAX = 1_000_000


class Kind(NamedTuple):
    """The elements that a dtype stands for. They are little-endian."""

    item_bytes: int
    #: NumPy's name of the type; None for one that NumPy does not have by itself.
    numpy: Optional[str]
    #: The format by which `struct` unpacks an element, or its two halves.
    format: str


DTYPES: Dict[str, Kind] = {
    "bool": Kind(1, "?", "?"),
    "u8": Kind(1, "u1", "B"),
    "i8": Kind(1, "i1", "b"),
    "u16": Kind(2, "<u2", "H"),
    "i16": Kind(2, "<i2", "h"),
    "u32": Kind(4, "<u4", "I"),
    "i32": Kind(4, "<i4", "i"),
    "u64": Kind(8, "<u8", "Q"),
    "i64": Kind(8, "<i8", "q"),
    "f16": Kind(2, "<f2", "e"),
    "bf16": Kind(2, None, "H"),
    "f32": Kind(4, "<f4", "f"),
    "f64": Kind(8, "<f8", "d"),
    "c64": Kind(8, "<c8", "ff"),
    "c128": Kind(16, "<c16", "dd"),
}
#: The dtypes by the kind and the size of NumPy's types.
_OF_NUMPY = {
    (kind, item_bytes): f"{kind}{item_bytes * 8}"
    for kind, sizes in (("u", (1, 2, 4, 8)), ("i", (1, 2, 4, 8)), ("f", (2, 4, 8)), ("c", (8, 16)))
    for item_bytes in sizes
}
_OF_NUMPY["b", 1] = "bool"
#: The kinds of NumPy's types by the letters with which buffers describe their elements.
_KINDS_OF_FORMATS = {
    "?": "b",
    **dict.fromkeys(["b", "h", "i", "l", "q", "n"], "i"),
    **dict.fromkeys(["B", "H", "I", "L", "Q", "N", "c"], "u"),
    **dict.fromkeys(["e", "f", "d"], "f"),
    **dict.fromkeys(["Zf", "Zd", "F", "D"], "c"),
}

Shape = Tuple[int, ...]


class Tensor:
    """An array that NumPy does not hold: its elements are in `data`, little-endian and in C order.

    It can be sent, and is received where NumPy is not installed, or for ``bf16`` without the package ``ml_dtypes``.
    """

    __slots__ = ("dtype", "shape", "data")

    def __init__(self, dtype: str, shape: Union[Shape, List[int]], data: ReadableBuffer) -> None:
        """
        :param dtype: one of ``bool u8 i8 u16 i16 u32 i32 u64 i64 f16 bf16 f32 f64 c64 c128``
        :param shape: the lengths of at most 32 dimensions; an empty one is a single element
        :param data: the elements, which are not copied until they are sent
        """
        kind = DTYPES.get(dtype)
        if kind is None:
            raise ValueError(f"the dtype of a Tensor is one of {' '.join(DTYPES)}, not {dtype!r}")
        shape = tuple(shape)
        if len(shape) > DIMENSIONS_MAX or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"the shape of a Tensor is at most {DIMENSIONS_MAX} lengths from 0 on, not {shape!r}")
        view = memoryview(data)
        if not view.c_contiguous:
            raise ValueError("the data of a Tensor lies in C order and without gaps; give data.tobytes()")
        if prod(shape) * kind.item_bytes != view.nbytes:
            raise ValueError(
                f"a Tensor of {dtype} with the shape {shape} has {prod(shape) * kind.item_bytes} bytes, "
                f"and this data has {view.nbytes}"
            )
        #: The type of the elements.
        self.dtype = dtype
        #: The length of each dimension.
        self.shape = shape
        #: The bytes of all elements.
        self.data = view.cast("B") if view.nbytes else memoryview(b"")

    def tolist(self) -> Any:
        """Returns the elements as nested lists of Python's numbers; without dimensions it is the number itself."""
        # Below a dimension of 0 there are no lists.
        if not self.data.nbytes and prod(takewhile(bool, self.shape)) > EMPTY_ROWS_MAX:
            raise ValueError(f"a Tensor of the shape {self.shape} has nothing in it but a great many empty lists")
        elements = _elements(self.dtype, self.data)

        def nested(shape: Shape) -> Any:
            return [nested(shape[1:]) for _ in range(shape[0])] if shape else next(elements)

        return nested(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)

    __hash__ = None  # type: ignore[assignment]  # Its data may change.

    def __repr__(self) -> str:
        return f"<Tensor {self.dtype} {list(self.shape)}, {self.data.nbytes} bytes>"

    def __reduce__(self) -> Any:
        return Tensor, (self.dtype, self.shape, bytes(self.data))


def _elements(dtype: str, data: memoryview) -> Iterator[Any]:
    parts = struct.iter_unpack("<" + DTYPES[dtype].format, data)
    if dtype in ("c64", "c128"):
        return (complex(real, imaginary) for real, imaginary in parts)
    if dtype == "bf16":
        # The upper half of a float of 32 bits.
        return (struct.unpack("<f", struct.pack("<I", half << 16))[0] for (half,) in parts)
    return (element for (element,) in parts)


class Found(NamedTuple):
    """An attachment as it is found in a payload, before its bytes are copied."""

    #: None for plain bytes.
    dtype: Optional[str]
    shape: Shape
    #: Returns the bytes: in C order and little-endian. Those of objects that never change are not copied.
    read: Callable[[], Union[bytes, Memory]]


#: The exceptions by which libraries refuse their memory. Others come from elsewhere, such as the handler of a signal.
REFUSALS = (ArithmeticError, AttributeError, BufferError, RuntimeError, TypeError, ValueError)


class Refused(TypeError):
    """A value that cannot be sent. The text says what it is and what to send in its place."""


def find(value: Any) -> Optional[Found]:
    """Returns the attachment that a value is sent as; None if it is no bytes, array or tensor. Scalars of NumPy have
    a buffer, too, and are to be asked for by `number` first.

    :raises Refused: for one whose elements cannot be sent
    """
    if isinstance(value, (bytes, bytearray)):
        return Found(None, (), lambda: bytes(value))
    if isinstance(value, Tensor):
        return Found(value.dtype, value.shape, lambda: _bytes_of(value.data))
    if _is_of("numpy", "ndarray", value):
        return _of_array(value)
    if _is_of("pyarrow", "Buffer", value):
        # Its buffer says that it has signed numbers, and has bytes.
        return Found(None, (), lambda: memoryview(value).tobytes())
    offers_dlpack = getattr(type(value), "__dlpack__", None) is not None
    view = None
    try:
        view = memoryview(value)
    except TypeError:
        pass
    except BufferError as error:
        # Arrays of JAX have a buffer, but not of every type.
        if not offers_dlpack:
            raise Refused(f"{_named(value)}, whose buffer cannot be had ({error}); send an array of numbers") from error
    if view is not None:
        return _of_view(value, view)
    return _of_dlpack(value) if offers_dlpack else None


def _is_of(library: str, name: str, value: Any) -> bool:
    """Returns whether a value is of a class of a library. Nothing is, before something has imported that."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, getattr(module, name, ()))


def number(value: Any) -> Any:
    """Returns the number of Python, or the bool, with the value of a scalar of NumPy; None for another object.

    :raises Refused: for a scalar that no number of JSON has the value of
    """
    if not _is_of("numpy", "generic", value) or isinstance(value, bytes):
        return None
    kind, item_bytes = value.dtype.kind, value.dtype.itemsize
    if kind == "b":
        return bool(value)
    if kind in "iu":
        return int(value)
    if (kind == "f" and item_bytes <= 8) or value.dtype.name == "bfloat16":
        return float(value)
    if kind == "c":
        raise Refused(f"{_named(value)}, and JSON has no complex numbers; send [value.real, value.imag]")
    if kind == "f":
        raise Refused(f"{_named(value)}, which is longer than a number of JSON; send float(value)")
    if kind in "mM":
        raise Refused(f"{_named(value)}, which JSON cannot say; send str(value)")
    raise Refused(f"{_named(value)}, which JSON cannot say; send value.item()")


def _of_array(array: Any) -> Found:
    dtype, shape = array.dtype, array.shape
    name = None
    if dtype.type.__module__ == "numpy":
        name = _OF_NUMPY.get((dtype.kind, dtype.itemsize))
    elif dtype.name == "bfloat16":
        name = "bf16"
    if name is None:
        raise Refused(f"an array of the dtype {dtype}, which cannot be sent; {_instead_of(dtype)}")
    if hasattr(array, "mask"):
        raise Refused("a masked array, whose mask would be lost; send value.filled(), and value.mask beside it")
    _check_dimensions(shape)
    if dtype.newbyteorder("<") != dtype:
        return Found(name, shape, lambda: array.astype(dtype.newbyteorder("<")).tobytes())
    base: Any = array.base
    is_received = type(base) is Memory
    if is_received and array.flags.c_contiguous and array.nbytes == memoryview(base).nbytes:
        # It was received, and goes on from where it lies.
        return Found(name, shape, lambda: base)
    return Found(name, shape, array.tobytes)


def _bytes_of(view: memoryview) -> Union[bytes, Memory]:
    """Returns the bytes of a view in C order: those of what it views, if that never changes, and otherwise a copy."""
    owner: Any = view.obj
    is_whole = type(owner) in (bytes, Memory) and view.c_contiguous and view.nbytes == memoryview(owner).nbytes
    return owner if is_whole else view.tobytes()


def _instead_of(dtype: Any) -> str:
    """Returns what to send in place of an array of this dtype of NumPy."""
    if dtype.names:
        return "send a dict of its fields: {name: value[name] for name in value.dtype.names}"
    if dtype.kind == "O":
        return "give it a dtype of numbers, such as value.astype(float), or send value.tolist()"
    if dtype.kind in "mM":
        return "send value.astype('int64'), and its unit beside it"
    if dtype.kind in "USTV":
        return "send value.tolist() if that is JSON, or its bytes: value.tobytes()"
    return "convert it to another one, such as value.astype('float64')"


def _of_view(value: Any, view: memoryview) -> Found:
    format, shape = view.format, view.shape or ()
    is_array = type(value).__module__ == "array"
    if format == "B" and view.ndim == 1 and not is_array:
        return Found(None, (), lambda: _bytes_of(view))
    order = format[0] if format[:1] in ("@", "=", "<", ">", "!") else "@"
    kind = _KINDS_OF_FORMATS.get(format[len(order) :] if format.startswith(order) else format, "")
    name = _OF_NUMPY.get((kind, view.itemsize))
    if name is None:
        hint = "send text as a string" if format in ("u", "w") else "send an array of numbers"
        raise Refused(f"{_named(value)} with elements of the format {format!r}, which cannot be sent; {hint}")
    _check_dimensions(shape)
    is_big = order in (">", "!") or (sys.byteorder == "big" and order != "<")
    if is_big and view.itemsize > 1:
        part_bytes = view.itemsize // 2 if kind == "c" else view.itemsize
        return Found(name, shape, lambda: _swapped(view.tobytes(), part_bytes))
    return Found(name, shape, lambda: _bytes_of(view))


def _swapped(data: bytes, part_bytes: int) -> bytes:
    swapped = bytearray(len(data))
    for at in range(part_bytes):
        swapped[at::part_bytes] = data[part_bytes - 1 - at :: part_bytes]
    return bytes(swapped)


#: The types of elements of PyTorch that NumPy does not read: that of the same bits, and their name on the wire.
_BITS_OF_TORCH = {"torch.bfloat16": ("int16", "bf16"), "torch.bool": ("uint8", "bool")}
#: What to send in place of arrays whose memory cannot be read, by the modules of their classes.
_INSTEAD = {
    "pyarrow": "send value.drop_null(), value.to_pylist(), or a table as bytes in the format of Arrow",
    "torch": "send an array of NumPy, such as value.detach().cpu().numpy()",
}


def _of_dlpack(value: Any) -> Found:
    """NumPy reads the memory that a library such as PyTorch offers, which has no buffer of Python."""
    numpy = _numpy()
    if numpy is None:
        raise Refused(f"{_named(value)}, whose memory NumPy can read, which is not installed; install numpy")
    try:
        if _is_of("torch", "Tensor", value):
            return _of_torch(numpy, value)
        # An array of JAX is read so whatever its type is, and on whatever device it is.
        read = numpy.asarray if _is_of("jax", "Array", value) else numpy.from_dlpack
        return _of_array(read(value))
    except Refused:
        raise
    except REFUSALS as error:
        library = type(value).__module__.partition(".")[0]
        hint = _INSTEAD.get(library, "send an array of NumPy, such as numpy.asarray(value)")
        raise Refused(f"{_named(value)}, and its memory cannot be read ({error}); {hint}") from error


def _of_torch(numpy: Any, tensor: Any) -> Found:
    # PyTorch puts negations off, and lends the memory without them.
    tensor = tensor.resolve_conj().resolve_neg()
    bits, name = _BITS_OF_TORCH.get(str(tensor.dtype), (None, None))
    if bits is None:
        return _of_array(numpy.from_dlpack(tensor))
    return _of_array(numpy.from_dlpack(tensor.view(getattr(sys.modules["torch"], bits))))._replace(dtype=name)


def _check_dimensions(shape: Shape) -> None:
    if len(shape) > DIMENSIONS_MAX:
        what = f"an array of {len(shape)} dimensions, and at most {DIMENSIONS_MAX} can be sent"
        raise Refused(f"{what}; send value.ravel()")


def _named(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"of the type {name}"


def type_of_numpy(dtype: str) -> Optional[Tuple[type, Any]]:
    """Returns the class of NumPy's arrays, and its type of such elements, if it is installed and has that."""
    numpy = _numpy()
    of_numpy = None if numpy is None else DTYPES[dtype].numpy or _bfloat16()
    return None if numpy is None or of_numpy is None else (numpy.ndarray, numpy.dtype(of_numpy))


def received(dtype: str, shape: Shape, data: ReadableBuffer) -> Any:
    """Returns what a program gets for a tensor: a view of the data, which nobody may write to."""
    found = type_of_numpy(dtype)
    if found is None:
        return Tensor(dtype, shape, data)
    array, of_numpy = found
    return array(shape, of_numpy, data)


#: Modules that are not there, which are not looked for again.
_missing: Dict[str, None] = {}


def _numpy() -> Any:
    return _module("numpy")


def _bfloat16() -> Any:
    types = _module("ml_dtypes")
    return None if types is None else types.bfloat16


def _module(name: str) -> Any:
    if name in _missing:
        # The program may have imported it since.
        return sys.modules.get(name)
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        _missing[name] = None
        return None


def from_base64(payload: Any) -> Any:
    """Returns a payload in which every ``{"$base64": …, "dtype": …, "shape": …}`` is what it stands for.

    A server sends those to peers without attachments, and this gives what others receive: ``bytes``, and arrays of
    NumPy or a `Tensor`. The payload itself is not changed.

    :raises ValueError: with the path to one whose text is no base64, or whose lengths do not fit
    """
    return _from_base64("payload", payload)


def _from_base64(path: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_from_base64(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    text, dtype, shape = value.get("$base64"), value.get("dtype"), value.get("shape")
    if not isinstance(text, str) or value.keys() != {"$base64", "dtype", "shape"}:
        return {key: _from_base64(f"{path}[{key!r}]", inner) for key, inner in value.items()}
    from binascii import Error, a2b_base64

    try:
        data = a2b_base64(text, strict_mode=True)
        if dtype is None and shape is None:
            return data
        if not isinstance(dtype, str) or not isinstance(shape, list):
            raise ValueError("its dtype is a string and its shape a list, or both are None")
        return received(dtype, Tensor(dtype, shape, data).shape, data)
    except (Error, ValueError, OverflowError) as error:
        # NumPy refuses the shapes of some empty arrays.
        raise ValueError(f"{path} is no value that was encoded as base64: {error}") from error
