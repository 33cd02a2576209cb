"""The chunk files of one encoder: read, mapped and written directly, without a codec.

A chunk file of an uncompressed Zarr array is the raw rows, so reading it is one `readinto` and a memory map of
it is an array. Zarr writes the metadata and any Zarr reader opens the result; this is the short way to the
same bytes.
"""

import io
import mmap
import os
from math import prod
from pathlib import Path

import numpy as np

from .atomic import replace_file
from .errors import StoreError
from .layout import ChunkLayout, EmbeddingDType, FloatArray


def empty_pages(shape: tuple[int, ...], dtype: EmbeddingDType) -> FloatArray:
    """An uninitialised array that starts on a page, as the files do that are read into it.

    numpy starts a large array 16 bytes into a page. Copying from the start of a page to there makes every load
    seem to depend on the store before it (the two agree in their low 12 bits), at two thirds of the speed.
    """
    n_bytes = prod(shape) * dtype.itemsize
    raw = np.empty(n_bytes + mmap.PAGESIZE, dtype=np.uint8)
    first = -raw.ctypes.data % mmap.PAGESIZE
    return raw[first : first + n_bytes].view(dtype).reshape(shape)


class ChunkFiles:
    """The chunk files of one encoder.

    Parameters
    ----------
    directory
        The Zarr array `embedding`.
    layout
        Its shape and chunks.
    """

    def __init__(self, directory: Path, layout: ChunkLayout) -> None:
        self._directory = directory
        self._layout = layout

    def path(self, chunk: int) -> Path:
        """The file of a chunk."""
        return self._directory / self._layout.key(chunk)

    def is_whole(self, chunk: int) -> bool:
        """Whether the chunk's file is there and has the size it must have; its bytes are not looked at."""
        try:
            return self.path(chunk).stat().st_size == self._layout.chunk_bytes
        except FileNotFoundError:
            return False

    def read_into(self, chunk: int, out: FloatArray) -> None:
        """Read a chunk's first ``len(out)`` rows into `out`, shape (n_rows, *row_shape), C-contiguous.

        Raises
        ------
        StoreError
            If the file is missing or not of a chunk's size.
        """
        target = out.reshape(-1).view(np.uint8).data
        n_read = 0
        with self._open(chunk) as file:
            while n_read < len(target):
                step = file.readinto(target[n_read:])
                if not step:
                    raise self._damaged(chunk, n_read)
                n_read += step

    def map(self, chunk: int) -> FloatArray:
        """A chunk as a read-only memory map, shape (chunk_rows, *row_shape).

        It stays valid, and shows the same rows, when the file is replaced or removed.
        """
        with self._open(chunk) as file:
            mapped = mmap.mmap(file.fileno(), self._layout.chunk_bytes, access=mmap.ACCESS_READ)
        # Not np.memmap: slicing that subclass costs several times what slicing an ndarray does.
        rows: FloatArray = np.frombuffer(mapped, dtype=self._layout.dtype)
        return rows.reshape(self._layout.chunk_rows, *self._layout.row_shape)

    def write(self, chunk: int, rows: FloatArray) -> None:
        """Replace a chunk's file by `rows`, shape (n_rows, *row_shape), then NaN; flushed to disk."""
        n_tail = self._layout.chunk_rows - len(rows)
        tail: FloatArray = np.full((n_tail, *self._layout.row_shape), np.nan, dtype=self._layout.dtype)
        path = self.path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial, partial.open("wb") as file:
            file.write(rows.reshape(-1).view(np.uint8).data)
            file.write(tail.reshape(-1).view(np.uint8).data)

    def _open(self, chunk: int) -> io.FileIO:
        """A chunk's file, unbuffered, which saves a copy; its size is as it must be."""
        try:
            file = io.FileIO(f"{self._directory}/{self._layout.key(chunk)}")
        except FileNotFoundError as error:
            raise self._damaged(chunk, 0) from error
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes != self._layout.chunk_bytes:
            file.close()
            raise self._damaged(chunk, n_bytes)
        return file

    def _damaged(self, chunk: int, n_bytes: int) -> StoreError:
        name = self._directory.parent.name
        return StoreError(
            f"Chunk {chunk} of encoder {name!r} is {self._layout.chunk_bytes} bytes, and is committed, but its "
            f"file has {n_bytes} ({self.path(chunk)}). Run `abaw extract --encoder {name}` again, which computes "
            f"it anew, or `abaw store rm {name}` to start over."
        )
