"""The embeddings of one encoder, read: whole, by rows, or gathered; never a row that was not committed.

A whole array is read chunk by chunk into place. Rows are slices of mapped chunks (see views.py), which processes share;
of an object store whole chunks are fetched, many at a time. A store may be read while it is written.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from .chunks import empty_pages
from .committed import CommittedChunks
from .errors import EncoderMismatchError, ShapeError, StoreError
from .layout import EmbeddingDType, FloatArray
from .metadata import read_encoder
from .provenance import Provenance
from .storage.base import MAX_REQUESTS, Storage
from .tokenprojection import TokenProjection, read_projection
from .views import open_views

_MAX_READERS: Final = 4  # reading is bound by memory long before


class Embedding:
    """One encoder's embeddings in a feature store.

    Parameters
    ----------
    storage
        What the store is kept in.
    name
        Of the encoder.
    n_frames
        Rows of the store's frame table, of which the encoder may know fewer; None for as many as it knows.

    Raises
    ------
    StoreError
        If the group is damaged.
    """

    def __init__(self, storage: Storage, name: str, n_frames: int | None = None) -> None:
        record = read_encoder(storage, name)
        self.storage = storage
        self.name = name
        self.record = record
        self.layout = record.layout if n_frames is None else replace(record.layout, n_frames=n_frames)
        self.provenance: Provenance = record.provenance
        self.rows = CommittedChunks(storage, name, self.layout)
        self.commits = self.rows.commits
        self.chunks = self.rows.chunks
        self.failure_log = self.rows.failure_log
        self._views = open_views(self.rows)

    def __reduce__(self) -> "tuple[Callable[[Storage, str, int], Embedding], tuple[Storage, str, int]]":
        # Maps do not travel to another process; each opens its own, and the page cache is shared anyway.
        return Embedding, (self.storage, self.name, self.n_frames)

    def __repr__(self) -> str:
        return f"Embedding({self.name!r}, {self.n_frames} x {self.row_shape}, {self.dtype})"

    @property
    def n_frames(self) -> int:
        """Rows of the frame table."""
        return self.layout.n_frames

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (dim,) or (n_tokens, dim)."""
        return self.layout.row_shape

    @property
    def dim(self) -> int:
        """Length of a vector: the last dimension."""
        return self.layout.row_shape[-1]

    @property
    def dtype(self) -> EmbeddingDType:
        """float16 or float32."""
        return self.layout.dtype

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return self.layout.chunk_rows

    @property
    def batch_rows(self) -> int:
        """Rows that were computed together; batch i is rows [i * batch_rows, (i + 1) * batch_rows)."""
        return self.layout.batch_rows

    @cached_property
    def projection(self) -> TokenProjection | None:
        """The projection that rows go through before they are written; None where none is kept.

        Raises
        ------
        StoreError
            If it is not what was kept.
        """
        shape = self.record.projection_shape
        if shape is None:
            return None
        return read_projection(self.storage, self.name, shape, self.provenance.projection)

    def committed(self) -> npt.NDArray[np.bool_]:
        """Which rows are there, shape (n_frames,); a failed frame's row is there, and holds NaN."""
        within = np.arange(self.chunk_rows)
        there: npt.NDArray[np.bool_] = within < self.rows.n_rows()[:, None]  # (n_chunks, chunk_rows)
        return there.reshape(-1)[: self.n_frames]

    def rows_done(self) -> int:
        """How many rows are there."""
        return int(self.rows.n_rows().sum())

    def is_complete(self) -> bool:
        """Whether every row is there."""
        return self.rows_done() == self.n_frames

    def failures(self) -> dict[int, str]:
        """Table row -> reason, ascending, of the committed frames that could not be embedded."""
        return self.rows.failures()

    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows hold an embedding: committed and not failed; shape (n_frames,)."""
        mask = self.committed()
        mask[list(self.failures())] = False
        return mask

    def load(self) -> FloatArray:
        """The whole array, shape (n_frames, *row_shape), in memory; failed frames hold NaN.

        Raises
        ------
        MissingEmbeddingsError
            If a row is not committed.
        StoreError
            If a chunk file is missing or too short.
        """
        n_done = self.rows_done()
        if n_done < self.n_frames:
            raise self.rows.missing(f"{n_done} of {self.n_frames} rows are there")
        loaded = empty_pages((self.n_frames, *self.row_shape), self.dtype)
        n_readers = MAX_REQUESTS if self.storage.is_remote else min(_MAX_READERS, os.cpu_count() or 1)
        stripes = np.array_split(np.arange(self.layout.n_chunks), n_readers)

        def read(stripe: npt.NDArray[np.int64]) -> None:
            for chunk in stripe.tolist():
                start, stop = self.layout.span(chunk)
                self._read_chunk(chunk, loaded[start:stop])

        # This thread reads the first stripe itself; waking one for every chunk would take a tenth of the time.
        with ThreadPoolExecutor(n_readers) as pool:
            others = [pool.submit(read, stripe) for stripe in stripes[1:]]
            read(stripes[0])
            for other in others:
                other.result()
        return loaded

    def read(self, start: int, stop: int) -> FloatArray:
        """Rows [start, stop), shape (stop - start, *row_shape); a view, where they are mapped, and then read-only.

        Raises
        ------
        ShapeError
            If the rows are not within the table.
        MissingEmbeddingsError
            If one of them is not committed.
        """
        if not 0 <= start <= stop <= self.n_frames:
            raise self._outside(start, stop)
        return self._views.read(start, stop)

    def read_into(self, start: int, stop: int, out: FloatArray) -> None:
        """Copy rows [start, stop) to `out` without mapping them: memory that is not ours does not grow.

        Parameters
        ----------
        start, stop
            Rows.
        out : shape (stop - start, *row_shape), in the store's dtype, C-contiguous

        Raises
        ------
        ShapeError
            If the rows are not within the table, or `out` does not fit them.
        MissingEmbeddingsError
            If one of them is not committed.
        """
        if not 0 <= start <= stop <= self.n_frames:
            raise self._outside(start, stop)
        if out.shape != (stop - start, *self.row_shape) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ShapeError(
                f"Rows [{start}, {stop}) are copied to {self.dtype} of shape {(stop - start, *self.row_shape)}, in C "
                f"order, not to {out.dtype} of {out.shape} (encoder {self.name!r}). Make such an array."
            )
        if self.storage.is_remote:
            out[...] = self._views.read(start, stop)
            return
        at = 0
        while start < stop:
            chunk, first = divmod(start, self.chunk_rows)
            n_rows = min(self.chunk_rows - first, stop - start)
            self.rows.check_there(chunk, first + n_rows)
            self.chunks.read_into(chunk, out[at : at + n_rows], first=first)
            start, at = start + n_rows, at + n_rows

    def gather(self, rows: npt.NDArray[np.integer], out: FloatArray | None = None) -> FloatArray:
        """The rows named by an integer array of any shape, shape (*rows.shape, *row_shape); a copy.

        Parameters
        ----------
        rows
            Row numbers, in any order and repeated or not.
        out : shape (*rows.shape, *row_shape), in the store's dtype, C-contiguous
            Where to put them, such as a part of a batch; None for new memory.

        Raises
        ------
        ShapeError
            If `rows` are not integers within the table, or `out` does not fit them.
        MissingEmbeddingsError
            If one of them is not committed.
        """
        wanted = np.asarray(rows)
        flat = wanted.reshape(-1)
        integral = np.issubdtype(flat.dtype, np.integer) or not flat.size
        if not integral or (flat.size and not 0 <= flat.min() <= flat.max() < self.n_frames):
            raise ShapeError(
                f"Rows to gather are integers within [0, {self.n_frames}), not {flat.dtype} "
                f"from {flat.min()} to {flat.max()} (encoder {self.name!r}). A mask becomes rows by np.flatnonzero."
            )
        shape = (*wanted.shape, *self.row_shape)
        gathered: FloatArray = np.empty(shape, dtype=self.dtype) if out is None else out
        if gathered.shape != shape or gathered.dtype != self.dtype or not gathered.flags.c_contiguous:
            raise ShapeError(
                f"These rows are gathered into {self.dtype} of shape {shape}, in C order, not into {gathered.dtype} of "
                f"{gathered.shape} (encoder {self.name!r}). Make such an array, or leave it out."
            )
        if flat.size:
            self._views.take(flat.astype(np.int64, copy=False), gathered.reshape(flat.size, *self.row_shape))
        return gathered

    def check_current(self) -> None:
        """Refuse (EncoderMismatchError) to go on if the encoder was removed, or made anew, since this was opened."""
        try:
            now = read_encoder(self.storage, self.name).provenance
        except StoreError:
            now = None
        if now != self.provenance:
            raise EncoderMismatchError(
                f"The embeddings of encoder {self.name!r} were removed, or made anew, while they were being written "
                f"(store: {self.storage.location}). Run the same command again."
            )

    def verify(self) -> list[int]:
        """Chunks whose committed rows are not what was written, by hash, or whose record is damaged; ascending."""
        return [chunk for chunk in range(self.layout.n_chunks) if not self.is_sound(chunk)]

    def repair(self) -> list[int]:
        """Take back the commits of the chunks that `verify` names, so that extraction computes them again; those."""
        bad = self.verify()
        for chunk in bad:
            self._withdraw(chunk)
        return bad

    def forget(self, rows: npt.NDArray[np.integer]) -> None:
        """Take back the commits of the chunks that hold these rows, so that the next extraction computes them again."""
        for chunk in np.unique(rows // self.chunk_rows).tolist():
            self._withdraw(chunk)

    def is_sound(self, chunk: int) -> bool:
        """Whether a chunk's committed rows are what was written; True where nothing is committed."""
        return self.rows.is_sound(chunk)

    def _withdraw(self, chunk: int) -> None:
        self.rows.withdraw(chunk)
        self._views.forget(chunk)

    def _read_chunk(self, chunk: int, out: FloatArray) -> None:
        """Read a committed chunk's rows into `out`; damage that is seen without much work is a StoreError."""
        if self.storage.is_remote:
            out[...] = self.rows.open(chunk, len(out))  # which knows its length by then: one request less
            return
        if not self.chunks.is_whole(chunk):
            raise self.chunks.damaged(chunk)
        self.chunks.read_into(chunk, out)
        self.rows.check_rows(chunk, out)

    def _outside(self, start: int, stop: int) -> ShapeError:
        return ShapeError(
            f"Rows [start, stop) lie within the table's {self.n_frames} frames, not [{start}, {stop}) "
            f"(encoder {self.name!r}). Check that the frames and the embeddings are of one store."
        )
