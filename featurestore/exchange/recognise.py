"""Telling what a file is by its first bytes: names are promises that other tools do not keep."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from featurestore.errors import ConfigError, MissingFileError, StoreError

from .keys import FrameIndex
from .source import VectorSource

_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_USER_BLOCKS: Final = (0, 512, 1024, 2048, 4096)  # where an HDF5 file may begin within a file
_PICKLES: Final = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
_HEAD_BYTES: Final = _USER_BLOCKS[-1] + len(_HDF5)


def recognise(path: Path) -> str:
    """What a file is: hdf5, npz, npy, pickle, parquet or store.

    Raises
    ------
    MissingFileError
        If it is not there.
    StoreError
        If it is none of them.
    """
    if path.is_dir():
        return "store"
    if not path.is_file():
        raise MissingFileError(f"An import reads a file of vectors; {path} is not there. Check the path.")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if any(head[start:].startswith(_HDF5) for start in _USER_BLOCKS):
        return "hdf5"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "store" if _holds_store(path) else "npz"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(_PICKLES):
        return "pickle"
    raise StoreError(
        "An import reads HDF5, .npz, .npy, a pickle of protocol 2 to 5, Parquet, or another feature store; this is "
        f"none of them: it begins with {head[:8]!r} (file: {path}). Save the vectors in one of these formats."
    )


def _holds_store(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return any(member.rpartition("/")[2] == "zarr.json" for member in file.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False  # cut short: the reader of .npz says so


@contextmanager
def open_source(
    path: Path, index: FrameIndex, *, encoder: str | None = None, layout: str | None = None
) -> Iterator[VectorSource]:
    """The vectors of a file of any known format, or of another feature store.

    Parameters
    ----------
    path
        The file, or a store's folder.
    index
        Of the frames that the vectors are for.
    encoder
        Of a store: which encoder.
    layout
        Of HDF5: flat, video or image; None recognises it.

    Raises
    ------
    MissingFileError
        If it is not there.
    StoreError
        If it is damaged, or of no known format.
    ConfigError
        If a layout is told, and the file is no HDF5.
    """
    found = recognise(path)
    if layout is not None and found != "hdf5":
        raise ConfigError(
            f"--layout is for HDF5, whose layouts are several; {path} was recognised as {found}. Leave it out."
        )
    with _READERS[found](path, index, encoder, layout) as source:
        yield source


# The readers import what they read with when they are called: h5py and polars take their time.


@contextmanager
def _hdf5(path: Path, index: FrameIndex, _: str | None, layout: str | None) -> Iterator[VectorSource]:
    from .hdf5 import open_hdf5

    with open_hdf5(path, index, layout) as source:
        yield source


@contextmanager
def _npz(path: Path, *_: object) -> Iterator[VectorSource]:
    from .npz import open_npz

    with open_npz(path) as source:
        yield source


@contextmanager
def _npy(path: Path, *_: object) -> Iterator[VectorSource]:
    from .mapping import open_npy

    yield open_npy(path)


@contextmanager
def _pickle(path: Path, *_: object) -> Iterator[VectorSource]:
    from .mapping import open_pickle

    yield open_pickle(path)


@contextmanager
def _parquet(path: Path, *_: object) -> Iterator[VectorSource]:
    from .parquet import ParquetSource

    yield ParquetSource(path)


@contextmanager
def _store(path: Path, _: FrameIndex, encoder: str | None, __: str | None) -> Iterator[VectorSource]:
    from .storesource import StoreSource

    yield StoreSource(path, encoder)


_Reader = Callable[[Path, FrameIndex, str | None, str | None], AbstractContextManager[VectorSource]]
_READERS: Final[dict[str, _Reader]] = {
    "hdf5": _hdf5,
    "npz": _npz,
    "npy": _npy,
    "pickle": _pickle,
    "parquet": _parquet,
    "store": _store,
}
