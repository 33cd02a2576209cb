""".npz files with one vector a frame, keyed ``video/frame.jpg``: how this field's feature extractors hand results on.

`numpy.load` parses the header of every member as Python source, which is most of the time for many small ones; here
the parse of a header is kept, and members of one dtype and shape share one header.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError

from .mapping import read_npy
from .outgoing import Outgoing
from .source import EntrySource, VectorSource

_SUFFIX: Final = ".npy"
_LONE: Final = "arr_0.npy"  # the member that numpy.savez(file, dictionary) makes
_WRITTEN_AT: Final = (1980, 1, 1, 0, 0, 0)  # the same embeddings give the same file


class NpzSource(EntrySource):
    """The members of an .npz, read one at a time in any order; nothing is unpickled."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        super().__init__(path, [member.removesuffix(_SUFFIX) for member in file.namelist()], format="npz")
        self._file = file
        self._headers: dict[bytes, tuple[np.dtype[np.generic], tuple[int, ...], bool]] = {}

    def vector(self, entry: int) -> npt.NDArray[np.generic]:
        """As of `EntrySource`."""
        name = self.names[entry]
        try:
            raw = self._file.read(f"{name}{_SUFFIX}")
            # Magic (6 bytes), version (2), header length (2 in version 1), header.
            header_stop = 10 + struct.unpack_from("<H", raw, 8)[0]
            if raw[:header_stop] not in self._headers:
                self._headers[raw[:header_stop]] = _read_header(raw)
            dtype, shape, is_fortran = self._headers[raw[:header_stop]]
            flat = np.frombuffer(raw, dtype=dtype, offset=header_stop)
            return flat.reshape(shape, order="F" if is_fortran else "C")
        except (ValueError, KeyError, EOFError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile) as error:
            raise StoreError(
                f"An import's vectors are plain arrays of numbers; {name!r} is not one that can be read: {error} "
                f"(file: {self.path}). Save it again with numpy.savez."
            ) from error


def _read_header(raw: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], bool]:
    """Dtype, shape and order of an .npy of format 1; ValueError for anything that would have to be unpickled."""
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"its .npy format is {version}, not (1, 0)")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in "fiu":
        raise ValueError(f"its dtype is {dtype}")
    return dtype, shape, is_fortran


@contextmanager
def open_npz(path: Path) -> Iterator[VectorSource]:
    """The vectors of an .npz.

    Raises
    ------
    StoreError
        If it is damaged, or the archive of another tool.
    """
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise StoreError(
            f"An import reads an .npz file to its end; this one is damaged or cut short: {error} (file: {path}). "
            "Copy it again from where it came, or save it anew with numpy.savez."
        ) from error
    with file:
        members = file.namelist()
        if members == [_LONE]:
            with file.open(_LONE) as member:
                yield read_npy(io.BytesIO(member.read()), path, "npz")
            return
        if members and not any(member.endswith(_SUFFIX) for member in members):
            torch = any(member.endswith("/data.pkl") for member in members)
            advice = "Save arrays instead of tensors, with numpy.savez." if torch else "Save it with numpy.savez."
            what = "a torch file" if torch else "another archive"
            raise StoreError(
                f"An import reads a ZIP archive if it is an .npz; this one is {what}, with the member "
                f"{members[0]!r} (file: {path}). {advice}"
            )
        yield NpzSource(path, file)


def write_npz(path: Path, vectors: Outgoing) -> None:
    """Write vectors as `numpy.savez` would, uncompressed, one after the other."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": vectors.dtype.str, "fortran_order": False, "shape": vectors.row_shape}
    )
    head = header.getvalue()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for rows, block in vectors.blocks():
            for row, vector in zip(rows.tolist(), block, strict=True):
                member = zipfile.ZipInfo(f"{vectors.index.name(row)}{_SUFFIX}", _WRITTEN_AT)
                file.writestr(member, head + vector.tobytes())
