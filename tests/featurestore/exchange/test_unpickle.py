"""Nothing that a pickle names is run, and what remains is read as numpy and pickle would."""

import builtins
import io
import os
import pickle
import struct
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from featurestore.errors import StoreError
from featurestore.exchange.unpickle import PickledArray, PickledDType, load_plain

HERE = Path("v.pkl")
Reduced = tuple[Callable[..., object], tuple[object, ...]]


def load(raw: bytes) -> object:
    return load_plain(io.BytesIO(raw), HERE)


def as_numpy(value: object) -> np.ndarray:
    assert isinstance(value, PickledArray)
    return value.array


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call: Reduced = (function, arguments)

    def __reduce__(self) -> Reduced:
        return self.call


def named(module: str, name: str) -> bytes:
    """The opcode that looks a global up."""
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_call_of_the_shell_is_refused_by_name(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    bomb = Calls(os.system, f"touch {trap}")
    for held in (bomb, {"341/1.jpg": bomb}, [bomb], np.array([bomb], dtype=object), {"a": np.array([{0: bomb}, 1])}):
        with pytest.raises(StoreError, match=r"names posix\.system, and nothing of it was run \(file: v\.pkl\)"):
            load(pickle.dumps(held, protocol))
    assert not trap.exists()
    pickle.loads(pickle.dumps(bomb, protocol))  # the trap does spring elsewhere
    assert trap.exists()


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (eval, ("1 + 1",), "builtins.eval"),
        (exec, ("1",), "builtins.exec"),
        (getattr, (np, "load"), "builtins.getattr"),
        (builtins.__import__, ("os",), "builtins.__import__"),
        (open, ("/tmp/x", "w"), "(_io|io).open"),
        (bytearray, (10,), "builtins.bytearray"),
        (map, (len, []), "builtins.map"),
        (np.load, ("x",), "numpy.load"),
    ],
)
def test_other_ways_to_run_something(function: Callable[..., object], arguments: Reduced, name: str) -> None:
    raw = pickle.dumps(Calls(function, *(argument for argument in arguments if argument is not np)), 4)
    with pytest.raises(StoreError, match=f"names {name}"):
        load(raw)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "ndarray.tofile"),
        ("numpy", "memmap"),
        ("numpy", "matrix"),
        ("numpy.core.multiarray", "fromfile"),
        ("builtins", "list.__class__"),
        ("collections", "OrderedDict.fromkeys"),
        ("functools", "partial"),
        ("copyreg", "_reconstructor"),
        ("featurestore.exchange.unpickle", "_build"),
    ],
)
def test_names_beside_those_that_are_known(module: str, name: str) -> None:
    with pytest.raises(StoreError, match="arrays and plain containers only; this one names"):
        load(b"\x80\x02" + named(module, name) + b".")
    stacked = b"".join(b"\x8c" + struct.pack("B", len(part)) + part.encode() for part in (module, name))
    with pytest.raises(StoreError, match="arrays and plain containers only; this one names"):
        load(b"\x80\x04" + stacked + b"\x93.")


def test_tensors_are_refused_with_what_to_do() -> None:
    raw = b"\x80\x02" + named("torch._utils", "_rebuild_tensor_v2") + b"."
    with pytest.raises(StoreError, match=r"names torch\._utils\._rebuild_tensor_v2.*tensor\.cpu\(\)\.numpy\(\)"):
        load(raw)


def test_an_object_dtype_cannot_be_passed_off_as_bytes() -> None:
    """numpy itself would take the bytes for pointers, once a state has cleared the dtype's flags."""
    cleared = (
        named("numpy", "dtype")
        + pickle.dumps("O8", 2)[2:-1]
        + b"\x85R"  # numpy.dtype("O8")
        + pickle.dumps((3, "|", None, None, None, -1, -1, 0), 2)[2:-1]
        + b"b"
    )
    raw = (
        b"\x80\x02"
        + named("numpy._core.numeric", "_frombuffer")
        + b"("
        + pickle.dumps(bytearray(b"A" * 8), 5)[2:-1].partition(b"\x96")[1]
        + struct.pack("<Q", 8)
        + b"A" * 8
        + cleared
        + pickle.dumps((1,), 2)[2:-1]
        + pickle.dumps("C", 2)[2:-1]
        + b"tR."
    )
    with pytest.raises(StoreError, match="array of objects without its objects"):
        load(raw)


@pytest.mark.parametrize(
    "target",
    [
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("builtins", "list"),
    ],
)
def test_what_is_named_cannot_be_altered(target: tuple[str, str]) -> None:
    """BUILD with (None, {...}) sets attributes on whatever is on the stack."""
    for state in ((None, {"__setstate__": 1, "array": 2}), {"array": 1}):
        raw = b"\x80\x02" + named(*target) + pickle.dumps(state, 2)[2:-1] + b"b."
        with pytest.raises(StoreError, match="cannot be read"):
            load(raw)
    assert callable(PickledArray.__setstate__)
    assert callable(PickledDType.__setstate__)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((1, (2,), "dtype", False, b"\0" * 8), "without a dtype"),
        ((1, (3,), np.dtype("f4"), False, b"\0" * 8), r"shape \(3,\) of float32 in 8 bytes"),
        ((1, (-1,), np.dtype("f4"), False, b""), r"shape \(-1,\)"),
        ((1, [2], np.dtype("f4"), False, b"\0" * 8), r"shape \[2\]"),
        ((1, (1,), np.dtype("O"), False, b"\0" * 8), "objects without its objects"),
        ((1, (1,), np.dtype("f4"), False, [1]), "without its bytes"),
        ((1, (1,), np.dtype([("a", "f4")]), False, b"\0" * 4), "dtype 'V4'"),
        ((1, (1,), np.dtype("M8[s]"), False, b"\0" * 8), "dtype 'M8'"),
        ((1,), "without a known state"),
    ],
)
def test_states_that_numpy_would_trust(state: object, message: str) -> None:
    made = named("numpy.core.multiarray", "_reconstruct") + b"(" + named("numpy", "ndarray") + b"K\0\x85C\x01btR"
    raw = b"\x80\x04" + made + pickle.dumps(state, 4).partition(b"\x95")[2][8:-1] + b"b."
    with pytest.raises(StoreError, match=message):
        load(raw)


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused_or_plain(raw: bytes) -> None:
    try:
        value = load(b"\x80\x04" + raw)
    except StoreError:
        return
    plain = (str, bytes, int, float, type(None), tuple, list, dict, set, frozenset, bytearray, PickledArray, np.generic)
    assert isinstance(value, plain) or value in (list, dict, set, frozenset, tuple)


def test_every_cut_of_a_pickle_is_refused() -> None:
    raw = pickle.dumps({"341/1.jpg": np.arange(3.0)}, 4)
    for stop in range(len(raw)):
        with pytest.raises(StoreError, match="cannot be read"):
            load(raw[:stop])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@given(
    array=npst.arrays(
        st.sampled_from(["<f2", "<f4", ">f4", "<f8", "|u1", "<i8", "|b1", "<U5"]), npst.array_shapes(max_dims=3)
    ),
    in_fortran=st.booleans(),
)
def test_arrays_are_what_numpy_pickled(protocol: int, array: np.ndarray, in_fortran: bool) -> None:
    given_array = np.asfortranarray(array) if in_fortran else array
    read = as_numpy(load(pickle.dumps(given_array, protocol)))
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_and_scalars(protocol: int) -> None:
    value = {
        "list": [1, 2.5, None, True],
        "tuple": (b"", b"\xff\x00", "text"),
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, {"b": [2]}),
        "sets": [{1}, frozenset({2})],
        "scalar": np.float32(0.1),
        "name": np.str_("341/1.jpg"),
    }
    read = load(pickle.dumps(value, protocol))
    assert read == value
    assert isinstance(read, dict)
    assert read["scalar"].dtype == np.float32


@pytest.mark.parametrize("core", ["core", "_core"])
def test_both_layouts_of_numpy(core: str) -> None:
    raw = pickle.dumps(np.arange(4, dtype=np.float32), 2)
    assert b"numpy._core.multiarray" in raw
    read = as_numpy(load(raw.replace(b"numpy._core.multiarray", f"numpy.{core}.multiarray".encode())))
    np.testing.assert_array_equal(read, np.arange(4, dtype=np.float32))


def test_what_python_2_wrote() -> None:
    """A str there is bytes: names and raw data come as SHORT_BINSTRING."""
    data = np.arange(2, dtype="<f4").tobytes()
    empty = named("numpy.core.multiarray", "_reconstruct") + b"(" + named("numpy", "ndarray") + b"K\0\x85U\x01btR"
    dtype = named("numpy", "dtype") + b"(U\x02f4K\0K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    state = b"(K\x01K\x02\x85" + dtype + b"\x89U" + struct.pack("B", len(data)) + data + b"tb"
    read = load(b"\x80\x02}U\x05341/1" + empty + state + b"s.")
    assert isinstance(read, dict)
    np.testing.assert_array_equal(as_numpy(read["341/1"]), np.float32([0, 1]))
