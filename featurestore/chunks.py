"""The chunks of one encoder: read, mapped and written directly, without a codec.

A chunk of an uncompressed Zarr array is the raw rows, so reading it is one `readinto` and a memory map of
it is an array. Zarr writes the metadata and any Zarr reader opens the result; this is the short way to the
same bytes.
"""

import mmap
from math import prod
from typing import Final

import numpy as np

from .errors import StoreError
from .layout import ChunkLayout, EmbeddingDType, FloatArray
from .storage.base import Bytes, Storage

_BLANK_VALUES: Final = 1 << 19  # of NaN, written again and again behind a chunk's rows


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
    """The chunks of one encoder.

    Parameters
    ----------
    storage
        Where they are.
    prefix
        The Zarr array `embedding`.
    layout
        Its shape and chunks.
    """

    def __init__(self, storage: Storage, prefix: str, layout: ChunkLayout) -> None:
        self._storage = storage
        self._prefix = prefix
        self._layout = layout
        self._encoder = prefix.rpartition("/")[0]

    def key(self, chunk: int) -> str:
        """The key of a chunk."""
        return f"{self._prefix}/{self._layout.key(chunk)}"

    def is_whole(self, chunk: int) -> bool:
        """Whether the chunk is there and has the size it must have; its bytes are not looked at."""
        return self._storage.size(self.key(chunk)) == self._layout.chunk_bytes

    def whole(self) -> set[int]:
        """Every chunk that is whole, looked up at once."""
        sizes = self._storage.sizes(self._prefix)
        wanted = self._layout.chunk_bytes
        return {chunk for chunk in range(self._layout.n_chunks) if sizes.get(self.key(chunk)) == wanted}

    def read_into(self, chunk: int, out: FloatArray, *, first: int = 0) -> None:
        """Read a chunk's rows from `first` on into `out`, shape (n_rows, *row_shape), C-contiguous.

        Raises
        ------
        StoreError
            If the chunk is missing or shorter than that.
        """
        target = out.reshape(-1).view(np.uint8).data
        n_read = self._storage.read_into(self.key(chunk), target, first * self._layout.row_bytes)
        if n_read != len(target):
            raise self.damaged(chunk)

    def map(self, chunk: int) -> FloatArray:
        """A chunk without a copy where that is possible, read-only, shape (chunk_rows, *row_shape).

        It stays valid, and shows the same rows, when the chunk is replaced or removed.
        """
        view = self._storage.view(self.key(chunk))
        if view is None or len(view) != self._layout.chunk_bytes:
            raise self.damaged(chunk)
        # Not np.memmap: slicing that subclass costs several times what slicing an ndarray does.
        rows: FloatArray = np.frombuffer(view, dtype=self._layout.dtype)
        return rows.reshape(self._layout.chunk_rows, *self._layout.row_shape)

    def write(self, chunk: int, rows: FloatArray) -> None:
        """Replace a chunk by `rows`, shape (n_rows, *row_shape), then NaN; whole even after a power cut."""
        left = (self._layout.chunk_rows - len(rows)) * prod(self._layout.row_shape)  # values
        blank: FloatArray = np.full(min(left, _BLANK_VALUES), np.nan, dtype=self._layout.dtype)
        parts: list[Bytes] = [rows.reshape(-1).view(np.uint8).data] if len(rows) else []
        while left:
            parts.append(blank[:left].view(np.uint8).data)
            left -= min(left, len(blank))
        self._storage.write(self.key(chunk), parts)

    def remove(self, chunk: int) -> None:
        """Remove a chunk whose commit is gone."""
        self._storage.remove(self.key(chunk))

    def damaged(self, chunk: int, what: str = "") -> StoreError:
        """The error for a committed chunk that is not what was written."""
        size = self._storage.size(self.key(chunk))
        found = what or ("it is not there" if size is None else f"it has {size} bytes")
        return StoreError(
            f"Chunk {chunk} of encoder {self._encoder!r} is {self._layout.chunk_bytes} bytes, and is committed, but "
            f"{found} ({self._storage.where(self.key(chunk))}). Run `abaw store verify --encoder {self._encoder} "
            f"--repair` and `abaw extract --encoder {self._encoder}`, which computes it anew."
        )
