"""Which rows of an encoder are there for good: one 16-byte record a chunk.

A record is two little-endian uint64: how many rows of the chunk are written, and the xxh3-64 of their bytes.
The records are the chunks of the Zarr array `commits` of shape (n_chunks, 2), chunked (1, 2) and uncompressed,
so each is an object of its own and workers that own whole chunks need no lock. No object, or zero rows: nothing
is there. A record follows its chunk to disk; since its hash covers the written rows only, which are a prefix
of what any later version of the chunk holds, a kill between the two leaves the older record true.
"""

import struct
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from .errors import StoreError
from .layout import ChunkLayout, FloatArray
from .storage.base import Storage

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
    storage
        Where they are.
    prefix
        The Zarr array `commits`.
    layout
        Of the embedding.
    """

    def __init__(self, storage: Storage, prefix: str, layout: ChunkLayout) -> None:
        self._storage = storage
        self._prefix = prefix
        self._layout = layout

    def key(self, chunk: int) -> str:
        """The key of a chunk's record."""
        return f"{self._prefix}/{self._layout.commit_key(chunk)}"

    def read(self, chunk: int) -> Commit:
        """A chunk's record; `NO_COMMIT` where there is none. A damaged one is a StoreError."""
        key = self.key(chunk)
        return self._parse(key, self._storage.read(key))

    def rows(self) -> npt.NDArray[np.int64]:
        """Committed rows of every chunk, shape (n_chunks,)."""
        keys = [self.key(chunk) for chunk in range(self._layout.n_chunks)]
        raw = self._storage.read_many(keys)
        counts = (self._parse(key, each).n_rows for key, each in zip(keys, raw, strict=True))
        return np.fromiter(counts, dtype=np.int64, count=len(keys))

    def write(self, chunk: int, commit: Commit) -> None:
        """Put a record in place; a power cut may take it back until the storage has synced, a kill cannot."""
        self._storage.write(self.key(chunk), [_RECORD.pack(*commit)], flush=False)

    def remove(self, chunk: int) -> None:
        """Take a record back, for good: its rows are not there any more."""
        self._storage.remove(self.key(chunk))

    def _parse(self, key: str, raw: bytes | None) -> Commit:
        if not raw:
            return NO_COMMIT  # an empty file is what some file systems make of one that a power cut interrupted
        if len(raw) != _RECORD.size:
            raise StoreError(
                f"A commit is {_RECORD.size} bytes, not {len(raw)} ({self._storage.where(key)}). "
                "Run `abaw store verify --repair`, and extract again: only its chunk is computed anew."
            )
        commit = Commit(*_RECORD.unpack(raw))
        if commit.n_rows > self._layout.chunk_rows:
            raise StoreError(
                f"A commit counts at most its chunk's {self._layout.chunk_rows} rows, not {commit.n_rows} "
                f"({self._storage.where(key)}). Run `abaw store verify --repair`, and extract again: only its chunk is "
                "computed anew."
            )
        return commit
