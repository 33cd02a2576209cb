"""Which rows of an encoder are there for good: one 16-byte record a chunk.

A record is two little-endian uint64: how many rows of the chunk are written, and the xxh3-64 of their bytes.
The records are the chunks of the Zarr array `commits` of shape (n_chunks, 2), chunked (1, 2) and uncompressed,
so each is a file of its own and workers that own whole chunks need no lock. No file, or zero rows: nothing
is there. A record follows its chunk file to disk; since its hash covers the written rows only, which are a prefix
of what any later version of the file holds, a kill between the two leaves the older record true.
"""

import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from .atomic import flush_folder, replace_file
from .errors import StoreError
from .layout import FloatArray

_RECORD: Final = struct.Struct("<QQ")


class Commit(NamedTuple):
    """What a chunk's record says."""

    n_rows: int  # from the chunk's start; 0: nothing is there
    digest: int  # xxh3-64 of those rows' bytes


NO_COMMIT: Final = Commit(0, 0)


def commit_of(rows: FloatArray) -> Commit:
    """The record for `rows`, shape (n_rows, *row_shape), C-contiguous."""
    return Commit(len(rows), xxhash.xxh3_64_intdigest(rows.reshape(-1).view(np.uint8).data))


class CommitLog:
    """The records of one encoder.

    Parameters
    ----------
    directory
        The Zarr array `commits`.
    n_chunks
        Chunks of the embedding.
    """

    def __init__(self, directory: Path, n_chunks: int) -> None:
        self._directory = directory
        self._prefix = f"{directory}/c/"
        self._n_chunks = n_chunks

    def path(self, chunk: int) -> Path:
        """The file of a chunk's record."""
        return self._directory / "c" / str(chunk) / "0"

    def read(self, chunk: int) -> Commit:
        """A chunk's record; `NO_COMMIT` where there is none. A damaged one is a StoreError."""
        try:
            handle = os.open(f"{self._prefix}{chunk}/0", os.O_RDONLY)
        except FileNotFoundError:
            return NO_COMMIT
        try:
            raw = os.read(handle, _RECORD.size + 1)
        finally:
            os.close(handle)
        if len(raw) != _RECORD.size:
            raise StoreError(
                f"A commit is {_RECORD.size} bytes, not {len(raw)} ({self.path(chunk)}). "
                "Delete that file and extract again: only its chunk is computed anew."
            )
        return Commit(*_RECORD.unpack(raw))

    def rows(self) -> npt.NDArray[np.int64]:
        """Committed rows of every chunk, shape (n_chunks,)."""
        counts = (self.read(chunk).n_rows for chunk in range(self._n_chunks))
        return np.fromiter(counts, dtype=np.int64, count=self._n_chunks)

    def write(self, chunk: int, commit: Commit) -> None:
        """Put a record in place, flushed to disk."""
        path = self.path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as partial:
            partial.write_bytes(_RECORD.pack(*commit))

    def remove(self, chunk: int) -> None:
        """Take a record back, for good: its rows are not there any more."""
        path = self.path(chunk)
        if path.exists():
            path.unlink()
            flush_folder(path.parent)  # or a power cut could bring it back over rows that were written since
