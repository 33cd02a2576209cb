"""Pickles, read without running anything: numpy arrays and plain containers, built by stand-ins of our own.

A pickle is a program that calls whatever it names. Here a name leads to a stand-in or to a container, and any other
name is refused before it is looked up. numpy's own constructors are not among them: their `__setstate__` trusts what
it is given, and a crafted state makes numpy follow pointers of the attacker's. The stand-ins check dtype, shape and
length, and make the array with `numpy.frombuffer`. They cannot be altered by the pickle either: a pickle may set
attributes on whatever it names, so the stand-ins are classes that take none.

Protocols 2 to 5 and both of numpy's layouts (``numpy.core`` up to 1.x, ``numpy._core`` since 2) are read.
"""

import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError

_CODE: Final = re.compile(r"[<>=|]?([biufUSO])\d*")  # a dtype that a vector, or a name, may have


class _Sealed(type):
    """A class that no attribute can be set on."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise pickle.UnpicklingError(f"it sets {name!r} of a class")


class PickledDType(metaclass=_Sealed):
    """Stands for `numpy.dtype`."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, _align: object = False, _copy: object = False) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds an array of dtype {code!r}")
        self.dtype: np.dtype[np.generic] = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subdtype, names, fields, ...); what follows the byte order is of structured dtypes.
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds an array of a structured dtype")
        order = state[1]
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it holds a dtype of byte order {order!r}")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class PickledArray(metaclass=_Sealed):
    """Stands for a `numpy.ndarray`, which is there once the pickle has given its state."""

    __slots__ = ("array",)

    def __init__(self, *_: object) -> None:
        self.array: npt.NDArray[np.generic] = np.empty(0)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.generic]:
        return self.array if dtype is None else self.array.astype(dtype)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it holds an array without a known state")
        _, shape, dtype, is_fortran, raw = state
        self.array = _build(raw, dtype, shape, order="F" if is_fortran else "C")


class _Reconstruct(metaclass=_Sealed):
    """Stands for `numpy.core.multiarray._reconstruct`."""

    def __new__(cls, kind: object, *_: object) -> PickledArray:  # type: ignore[misc] # a function in the pickle's eyes
        if kind is not PickledArray:
            raise pickle.UnpicklingError("it holds a subclass of numpy.ndarray")
        return PickledArray()


class _FromBuffer(metaclass=_Sealed):
    """Stands for `numpy.core.numeric._frombuffer`, of protocol 5."""

    def __new__(cls, raw: object, dtype: object, shape: object, order: object, *_: object) -> PickledArray:  # type: ignore[misc]
        made = PickledArray()
        made.array = _build(raw, dtype, shape, order="F" if order == "F" else "C")
        return made


class _Scalar(metaclass=_Sealed):
    """Stands for `numpy.core.multiarray.scalar`."""

    def __new__(cls, dtype: object, raw: object = b"") -> np.generic:  # type: ignore[misc]
        value: np.generic = _build(raw, dtype, (1,), order="C")[0]
        return value


class _Encode(metaclass=_Sealed):
    """Stands for `_codecs.encode`, by which protocol 2 spells bytes."""

    def __new__(cls, text: object, codec: object = "latin1") -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it asks for the codec {codec!r}")
        return text.encode("latin1")


class _Bytes(metaclass=_Sealed):
    """Stands for `bytes`, which protocol 2 calls for the empty ones only."""

    def __new__(cls, *given: object) -> bytes:  # type: ignore[misc]
        if given:
            raise pickle.UnpicklingError("it makes bytes of something else")
        return b""


def _build(raw: object, dtype: object, shape: object, *, order: str) -> npt.NDArray[np.generic]:
    """An array of what a pickle gives, checked."""
    if not isinstance(dtype, PickledDType):
        raise pickle.UnpicklingError("it holds an array without a dtype")
    if not isinstance(shape, tuple) or not all(isinstance(length, int) and length >= 0 for length in shape):
        raise pickle.UnpicklingError(f"it holds an array of shape {shape!r}")
    n_items, is_fortran = prod(shape), order == "F"
    if dtype.dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != n_items:
            raise pickle.UnpicklingError("it holds an array of objects without its objects")
        objects = np.empty(n_items, dtype=object)
        for position, item in enumerate(raw):
            objects[position] = item
        return objects.reshape(shape, order="F" if is_fortran else "C")
    content = raw.encode("latin1") if isinstance(raw, str) else raw  # a str where Python 2 wrote it
    if not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("it holds an array without its bytes")
    n_bytes = len(content)
    if n_bytes != n_items * dtype.dtype.itemsize:
        raise pickle.UnpicklingError(f"it holds an array of shape {shape} of {dtype.dtype} in {n_bytes} bytes")
    return np.frombuffer(content, dtype=dtype.dtype).reshape(shape, order="F" if is_fortran else "C")


_BUILTINS: Final[dict[str, Callable[..., object]]] = {
    "list": list,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "bytes": _Bytes,
}

_ALLOWED: Final[dict[tuple[str, str], Callable[..., object]]] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): PickledDType,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    ("_codecs", "encode"): _Encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    **{(module, name): what for module in ("builtins", "__builtin__") for name, what in _BUILTINS.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows the names of `_ALLOWED` and no other."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str, /) -> Callable[..., object]:
        found = _ALLOWED.get((module, name))
        if found is None:
            advice = (
                "Save arrays instead of tensors: {key: tensor.cpu().numpy()}."
                if module.partition(".")[0] == "torch"
                else "Save a dictionary of arrays, or better an .npz, where it was made."
            )
            raise StoreError(
                f"A pickle is imported if it builds numpy arrays and plain containers only; this one names "
                f"{module}.{name}, and nothing of it was run (file: {self._path}). {advice}"
            )
        return found


def load_plain(file: BinaryIO, path: Path) -> object:
    """What a pickle holds, of arrays (as `PickledArray`) and plain containers; nothing that it names is run.

    Parameters
    ----------
    file
        Open at the pickle's first byte.
    path
        Its name, for messages.

    Raises
    ------
    StoreError
        If the pickle names anything else, or is damaged.
    """
    try:
        return _Unpickler(file, path).load()
    except StoreError:
        raise
    except Exception as error:  # a malformed pickle raises about anything
        reason = str(error).rstrip(".") or type(error).__name__
        raise StoreError(
            f"An import reads a pickle of arrays and plain containers; this one cannot be read: {reason} "
            f"(file: {path}). Copy it again from where it came, or make it anew."
        ) from error
