"""Bytes, arrays and tensors: to the bytes of attachments and back, without a connection."""

from __future__ import annotations

import array
import base64
import ctypes
import math
import mmap
import pickle
import struct
import sys
import types

import numpy
import pytest

from ipc_framework import Tensor, from_base64, tensors
from peers import run_program

#: Each dtype with NumPy's name, and elements whose bits are easily lost: NaNs with a payload and a sign, -0.0,
#: subnormals, and the ends of integers.
BITS = {
    "bool": ("?", "00 01"),
    "u8": ("u1", "00 7f 80 ff"),
    "i8": ("i1", "00 7f 80 ff"),
    "u16": ("u2", "0000 0100 ff7f 0080 ffff"),
    "i16": ("i2", "0000 0100 ff7f 0080 ffff"),
    "u32": ("u4", "00000000 01000000 ffffffff"),
    "i32": ("i4", "00000000 ffffff7f 00000080"),
    "u64": ("u8", "0100000000000000 ffffffffffffffff"),
    "i64": ("i8", "ffffffffffffff7f 0000000000000080"),
    "f16": ("f2", "0080 0100 017e 01fc 017c ff7b"),
    "f32": ("f4", "00000080 01000000 0100c07f 0100a0ff 0000807f ffff7f7f"),
    "f64": ("f8", "0000000000000080 0100000000000000 010000000000f87f 010000000000f4ff 000000000000f0ff"),
    "c64": ("c8", "00000080 0100c07f 01000000 0000803f"),
    "c128": ("c16", "0000000000000080 010000000000f87f 0100000000000000 000000000000f03f"),
}


def of_bits(dtype: str, order: str = "<") -> numpy.ndarray:
    name, bits = BITS[dtype]
    given = numpy.frombuffer(bytes.fromhex(bits), numpy.dtype(name).newbyteorder("<"))
    # By the bytes, because a conversion might make a NaN quiet.
    return given if order == "<" else given.byteswap().view(given.dtype.newbyteorder())


def data_of(value: object) -> bytes:
    found = tensors.find(value)
    assert found is not None
    return found.read()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", BITS)
def test_the_bits_of_every_dtype_stay(dtype: str, order: str) -> None:
    given = of_bits(dtype, order)
    found = tensors.find(given)
    assert (found.dtype, found.shape) == (dtype, given.shape)
    assert found.read() == bytes.fromhex(BITS[dtype][1])
    came = tensors.received(dtype, found.shape, found.read())
    assert came.dtype == numpy.dtype(BITS[dtype][0]).newbyteorder("<") and came.tobytes() == found.read()
    assert not came.flags.writeable


@pytest.mark.parametrize("dtype", BITS)
def test_a_tensor_has_the_elements_that_numpy_has(dtype: str) -> None:
    given = of_bits(dtype)
    tensor = Tensor(dtype, given.shape, given.tobytes())
    for element, expected in zip(tensor.tolist(), given.tolist()):
        assert type(element) is type(expected)
        assert repr(element) == repr(expected)
    pairs = given[: len(given) // 2 * 2].reshape(-1, 2, 1)
    assert repr(Tensor(dtype, pairs.shape, pairs.tobytes()).tolist()) == repr(pairs.tolist())


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,) * 32, (2, 3, 4)])
def test_shapes(shape: tuple) -> None:
    given = numpy.arange(math.prod(shape), dtype="f4").reshape(shape)
    found = tensors.find(given)
    came = tensors.received(found.dtype, found.shape, found.read())
    assert came.shape == given.shape and (came == given).all()
    tensor = Tensor("f32", shape, given.tobytes())
    assert tensor.tolist() == given.tolist() and tensors.find(tensor)[:2] == ("f32", shape)
    assert data_of(tensor) == given.tobytes()


GRID = numpy.arange(24, dtype="i4").reshape(2, 3, 4)
LAYOUTS = {
    "fortran": numpy.asfortranarray(GRID),
    "transposed": GRID.T,
    "every second": GRID[:, :, ::2],
    "backwards": GRID[::-1, :, ::-1],
    "broadcast": numpy.broadcast_to(GRID[0, 0], (5, 4)),
    "big-endian": GRID.astype(">i4"),
    "big-endian fortran": numpy.asfortranarray(GRID.astype(">i4")),
    "unaligned": numpy.frombuffer(b"x" + GRID.tobytes(), "u1")[1:].view("i4").reshape(GRID.shape),
    "read-only": numpy.frombuffer(GRID.tobytes(), "<i4"),
    "subclass": GRID.view(type("Mine", (numpy.ndarray,), {})),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_becomes_c_order(layout: str) -> None:
    given = LAYOUTS[layout]
    expected = numpy.ascontiguousarray(given, "<i4").tobytes()
    found = tensors.find(given)
    assert (found.dtype, found.shape, found.read()) == ("i32", given.shape, expected)
    view = tensors.find(memoryview(given))
    assert (view.dtype, view.shape, view.read()) == ("i32", given.shape, expected)


@pytest.mark.parametrize("typecode", "bBhHiIlLqQfd")
def test_arrays_of_the_standard_library(typecode: str) -> None:
    given = array.array(typecode, [0, 1, 2])
    kind = "f" if typecode in "fd" else "i" if typecode.islower() else "u"
    found = tensors.find(given)
    assert (found.dtype, found.shape) == (f"{kind}{given.itemsize * 8}", (3,))
    assert tensors.received(*found[:2], found.read()).tolist() == given.tolist()


def test_other_buffers() -> None:
    big = ctypes.c_int32.__ctype_be__ if sys.byteorder == "little" else ctypes.c_int32
    assert tensors.find((big * 2)(1, -2))[:2] == ("i32", (2,))
    assert data_of((big * 2)(1, -2)) == struct.pack("<2i", 1, -2)
    assert tensors.find((ctypes.c_double * 3 * 2)())[:2] == ("f64", (2, 3))
    swapped = numpy.array([1 + 2j, -0.0 - 1j], ">c8")
    assert data_of(memoryview(swapped)) == swapped.astype("<c8").tobytes()
    with mmap.mmap(-1, 8) as mapped:
        mapped[:3] = b"abc"
        assert tensors.find(mapped)[:2] == (None, ()) and data_of(mapped) == b"abc\0\0\0\0\0"


@pytest.mark.parametrize(
    "given, dtype, shape",
    [
        (b"abc", None, ()),
        (bytearray(b"abc"), None, ()),
        (memoryview(b"abc"), None, ()),
        (memoryview(b"a-b-c-")[::2], None, ()),
        (numpy.bytes_(b"abc"), None, ()),
        (memoryview(b"abc").cast("b"), "i8", (3,)),
        (memoryview(b"abc").cast("B", (1, 3)), "u8", (1, 3)),
        (array.array("B", b"abc"), "u8", (3,)),
        (numpy.frombuffer(b"abc", "u1"), "u8", (3,)),
    ],
)
def test_plain_bytes_and_tensors_of_bytes(given: object, dtype: str, shape: tuple) -> None:
    found = tensors.find(given)
    assert (found.dtype, found.shape, found.read()) == (dtype, shape, b"abc")


REFUSED = [
    (numpy.array([object()]), "an array of the dtype object", "value.astype(float)"),
    (numpy.zeros(2, "M8[s]"), "an array of the dtype datetime64[s]", "send value.astype('int64')"),
    (numpy.zeros(2, "m8[D]"), "an array of the dtype timedelta64[D]", "send value.astype('int64')"),
    (numpy.array(["text"]), "an array of the dtype <U4", "send value.tolist()"),
    (numpy.array([b"text"]), "an array of the dtype |S4", "value.tobytes()"),
    (numpy.zeros(2, "i4,f8"), "an array of the dtype [('f0', '<i4'), ('f1', '<f8')]", "send a dict of its fields"),
    (numpy.zeros(2, "V3"), "an array of the dtype |V3", "value.tobytes()"),
    (numpy.zeros(2, "longdouble"), "an array of the dtype float128", "value.astype('float64')"),
    (numpy.zeros(2, "clongdouble"), "an array of the dtype complex256", "convert it"),
    (numpy.ma.masked_array([1, 2], [0, 1]), "a masked array, whose mask would be lost", "send value.filled()"),
    (numpy.zeros((1,) * 33), "an array of 33 dimensions, and at most 32", "send value.ravel()"),
    (array.array("u", "text"), "of the type array.array with elements of the format", "send text as a string"),
    ((ctypes.c_char_p * 2)(), "with elements of the format '<z', which cannot be sent", "send an array of numbers"),
]


@pytest.mark.parametrize("given, what, instead", REFUSED, ids=[str(what) for _, what, _ in REFUSED])
def test_what_has_no_numbers_is_refused_with_what_to_do(given: object, what: str, instead: str) -> None:
    with pytest.raises(tensors.Refused) as refused:
        tensors.find(given)
    assert what in str(refused.value) and instead in str(refused.value)


def test_scalars_of_numpy_are_numbers() -> None:
    for given, expected in [
        (numpy.bool_(True), True),
        (numpy.int8(-128), -128),
        (numpy.uint64(2**64 - 1), 2**64 - 1),
        (numpy.float16(0.1), 0.0999755859375),
        (numpy.float32(0.1), 0.10000000149011612),
        (numpy.float64(0.1), 0.1),
    ]:
        number = tensors.number(given)
        assert type(number) is type(expected) and number == expected
    assert repr(tensors.number(numpy.float32("-0.0"))) == "-0.0"
    for given, instead in [
        (numpy.complex64(1j), "[value.real, value.imag]"),
        (numpy.longdouble(1), "float(value)"),
        (numpy.datetime64(0, "s"), "str(value)"),
        (numpy.zeros(1, "i4,f8")[0], "value.item()"),
    ]:
        with pytest.raises(tensors.Refused) as refused:
            tensors.number(given)
        assert instead in str(refused.value)
    assert tensors.number(1) is None and tensors.number(numpy.zeros(1)) is None


class Exporter:
    """An array of a library that offers its memory by DLPack alone, as PyTorch does."""

    def __init__(self, held: numpy.ndarray) -> None:
        self.held = held

    def __dlpack__(self, **options: object) -> object:
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self.held.__dlpack_device__()


def test_dlpack() -> None:
    for given in (GRID, GRID.T, numpy.array(1.5, "f4"), numpy.zeros((0, 2), "u1")):
        found = tensors.find(Exporter(given))
        assert found[:2] == tensors.find(given)[:2] and found.read() == data_of(given)

    class OnDevice(Exporter):
        def __dlpack__(self, **options: object) -> object:
            raise BufferError("it is on another device")

    with pytest.raises(tensors.Refused, match=r"OnDevice, .*it is on another device.*numpy\.asarray\(value\)"):
        tensors.find(OnDevice(GRID))


class Torch(types.ModuleType):
    """PyTorch, as far as its tensors differ from other arrays."""

    int16, uint8 = "i2", "u1"

    class Tensor(Exporter):
        is_negated = False

        @property
        def dtype(self) -> object:
            return "torch.bool" if self.held.dtype == bool else "torch.bfloat16" if self.held.dtype == "f2" else "other"

        def __dlpack__(self, **options: object) -> object:
            if self.dtype != "other":
                raise BufferError("Unsupported dtype in DLTensor")
            return self.held.__dlpack__(**options)

        def view(self, dtype: str) -> object:
            return type(self)(self.held.view(dtype))

        def resolve_conj(self) -> object:
            return self

        def resolve_neg(self) -> object:
            return type(self)(-self.held if self.is_negated else self.held)


def test_tensors_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", Torch("torch"))
    grid = GRID.astype("f2")
    for given, dtype in [(GRID, "i32"), (GRID.T, "i32"), (GRID % 2 == 0, "bool"), (grid, "bf16"), (grid.T, "bf16")]:
        found = tensors.find(Torch.Tensor(given))
        assert (found.dtype, found.shape, found.read()) == (dtype, given.shape, given.tobytes())
    negated = Torch.Tensor(GRID)
    negated.is_negated = True
    assert data_of(negated) == (-GRID).tobytes()


def test_arrays_of_jax_whose_type_is_not_one_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Array(Exporter):
        def __dlpack__(self, **options: object) -> object:
            raise BufferError("Unsupported dtype in DLTensor")

        def __array__(self, *_: object, **options: object) -> object:
            return self.held

    given = Array(GRID)
    with pytest.raises(tensors.Refused, match="Unsupported dtype"):
        tensors.find(given)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(Array=Array))
    assert data_of(given) == GRID.tobytes()


def test_a_buffer_of_arrow_is_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # It says that it has signed numbers, as this does.
    given = (ctypes.c_int8 * 3)(1, -1, 2)
    assert tensors.find(given)[:2] == ("i8", (3,))
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(Buffer=type(given)))
    assert tensors.find(given)[:2] == (None, ()) and data_of(given) == b"\1\xff\2"


def test_an_array_whose_buffer_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def view(value: object) -> memoryview:
        raise BufferError("there is no buffer of this type")

    monkeypatch.setattr(tensors, "memoryview", view, raising=False)
    assert tensors.find(Exporter(GRID))[:2] == ("i32", GRID.shape)
    with pytest.raises(tensors.Refused, match="there is no buffer of this type.*; send an array of numbers"):
        tensors.find(array.array("i"))


def test_bfloat16_by_the_name_of_its_dtype() -> None:
    assert Tensor("bf16", [3], bytes.fromhex("803f 0080 c17f")).tolist()[:2] == [1.0, -0.0]
    came = tensors.received("bf16", (2,), bytes.fromhex("803f 0080"))
    assert came == Tensor("bf16", (2,), bytes.fromhex("803f 0080")), "ml_dtypes is not installed here"
    dtype = types.SimpleNamespace(type=type("bfloat16", (), {"__module__": "ml_dtypes"}), name="bfloat16", kind="V")
    dtype.newbyteorder = lambda order: dtype
    given = types.SimpleNamespace(dtype=dtype, shape=(1,), base=None, tobytes=lambda: b"\x80\x3f")
    assert tensors._of_array(given)[:2] == ("bf16", (1,)) and tensors._of_array(given).read() == b"\x80\x3f"


def test_wrong_tensors_cannot_be_made() -> None:
    for dtype, shape, data, why in [
        ("float32", [1], b"1234", "one of bool u8"),
        ("f32", [2], b"1234", "has 8 bytes, and this data has 4"),
        ("f32", [-1], b"1234", "lengths from 0 on"),
        ("f32", [1.0], b"1234", "lengths from 0 on"),
        ("f32", [1] * 33, b"1234", "at most 32"),
        ("u8", [2], memoryview(b"1234")[::2], "in C order and without gaps"),
    ]:
        with pytest.raises(ValueError, match=why):
            Tensor(dtype, shape, data)
    with pytest.raises(ValueError, match="a great many empty lists"):
        Tensor("u8", [2**40, 0], b"").tolist()
    for shape in ([0, 1024, 1024, 3], [0, 2_000_000], [0, 2**40, 0]):
        assert Tensor("u8", shape, b"").tolist() == []
    assert Tensor("u8", [2, 0, 2_000_000], b"").tolist() == [[], []]
    tensor = Tensor("u16", [1, 2], b"1234")
    assert repr(tensor) == "<Tensor u16 [1, 2], 4 bytes>"
    assert pickle.loads(pickle.dumps(tensor)) == tensor != Tensor("i16", [1, 2], b"1234")


def in_base64(data: bytes, dtype: object = None, shape: object = None) -> dict:
    return {"$base64": base64.b64encode(data).decode(), "dtype": dtype, "shape": shape}


def test_from_base64() -> None:
    grid = in_base64(GRID.tobytes(), "i32", [2, 12])
    payload = {"a": [in_base64(b"\xff\x00"), {"b": in_base64(b"")}], "n": None, "c": grid}
    before = repr(payload)
    came = from_base64(payload)
    assert (came["c"] == GRID.reshape(2, 12)).all() and came["c"].dtype == "<i4"
    assert {**came, "c": 0} == {"a": [b"\xff\x00", {"b": b""}], "n": None, "c": 0} and repr(payload) == before
    assert from_base64(in_base64(b"12345678", "f64", [])).shape == ()
    numbered = {"$base64": 1, "dtype": None, "shape": None}
    for own in [{"$base64": "AA=="}, in_base64(b"") | {"mine": 1}, numbered, ["$base64"], "text", None, 7]:
        assert from_base64(own) == own, "what a program calls $base64 is its own"


@pytest.mark.parametrize(
    "wrong",
    [
        {"$base64": "A", "dtype": None, "shape": None},
        {"$base64": "AA==\n", "dtype": None, "shape": None},
        {"$base64": "Ä", "dtype": None, "shape": None},
        in_base64(b"1234", "f32", [2]),
        in_base64(b"1234", "f32"),
        in_base64(b"1234", None, [4]),
        in_base64(b"1234", "float", [4]),
        in_base64(b"1234", "u8", [4, True]),
        in_base64(b"1234", ["u8"], [4]),
        in_base64(b"", "u8", [2**62, 2**62, 0]),
        in_base64(b"", "u8", [2**70, 0]),
    ],
)
def test_wrong_base64_is_said_with_its_place(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"^payload\['a'\]\[1\] is no value that was encoded as base64: "):
        from_base64({"a": [0, wrong]})


WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
import ipc_framework
from ipc_framework import Tensor, from_base64, tensors
came = tensors.received("f32", (2, 1), b"\\0\\0\\x80\\x3f\\0\\0\\0\\x40")
print(came, came.tolist(), came.data.readonly, tensors.find(came)[:2])
print(from_base64({"$base64": "AAECAw==", "dtype": "u16", "shape": [2]}).tolist())
print(from_base64({"$base64": "AAE=", "dtype": None, "shape": None}))
class Exporter:
    def __dlpack__(self):
        raise AssertionError
try:
    tensors.find(Exporter())
except tensors.Refused as error:
    print(error)
"""


def test_without_numpy() -> None:
    ended = run_program(WITHOUT_NUMPY)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "<Tensor f32 [2, 1], 8 bytes> [[1.0], [2.0]] True ('f32', (2, 1))",
        "[256, 770]",
        "b'\\x00\\x01'",
        "of the type __main__.Exporter, whose memory NumPy can read, which is not installed; install numpy",
    ]


NUMPY_IS_NOT_LOADED = """
import sys
from ipc_framework import tensors
for value in (b"", bytearray(), memoryview(b"1234").cast("I"), 1, "text", {}, [1.5]):
    tensors.number(value), tensors.find(value)
print("numpy" in sys.modules, tensors.received("u8", (1,), b"1"), "numpy" in sys.modules)
"""


def test_numpy_is_loaded_when_the_first_tensor_arrives() -> None:
    ended = run_program(NUMPY_IS_NOT_LOADED)
    assert (ended.stdout, ended.stderr) == ("False [49] True\n", "")
