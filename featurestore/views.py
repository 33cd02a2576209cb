"""Committed rows as arrays, without a copy where that is possible: what windows are sliced and batches gathered from.

In a folder the chunks are mapped end to end and are one array: any window is a slice, any batch one `take`. Elsewhere
each chunk is an array of its own. In either case a chunk is opened when its rows are first asked for, as far as it is
committed then; it is opened again when more are asked for.
"""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from .committed import CommittedChunks
from .layout import FloatArray
from .storage.addresses import AddressRange
from .storage.base import MAX_REQUESTS
from .storage.local import LocalStorage

_MAX_FETCHED_BYTES: Final = 1 << 30  # of an object store's chunks that are kept in memory
_MIN_MEAN_RUN: Final = 4  # rows; shorter runs are gathered chunk by chunk, longer ones copied one by one


class RowViews(ABC):
    """The committed rows of an encoder."""

    @abstractmethod
    def read(self, start: int, stop: int) -> FloatArray:
        """Rows [start, stop), which are within the table; MissingEmbeddingsError if one is not committed."""

    @abstractmethod
    def take(self, rows: npt.NDArray[np.int64], out: FloatArray) -> None:
        """Copy `rows`, at least one, all within the table, to `out`, shape (n_rows, *row_shape)."""

    @abstractmethod
    def forget(self, chunk: int) -> None:
        """Open a chunk anew when it is next asked for."""


def open_views(committed: CommittedChunks) -> RowViews:
    """The views that suit where an encoder is kept."""
    layout, storage = committed.layout, committed.storage
    if isinstance(storage, LocalStorage):
        addresses = storage.reserve(layout.chunk_bytes, layout.n_chunks)
        if addresses is not None:
            return OneArray(committed, storage, addresses)
    return ChunkArrays(committed)


class OneArray(RowViews):
    """All chunks as one array, mapped end to end.

    Parameters
    ----------
    committed
        The chunks.
    storage
        The folder they are in.
    addresses
        As many as the chunks have bytes.
    """

    def __init__(self, committed: CommittedChunks, storage: LocalStorage, addresses: AddressRange) -> None:
        layout = committed.layout
        self._committed = committed
        self._storage = storage
        self._addresses = addresses
        self._chunk_rows = layout.chunk_rows
        rows: FloatArray = np.frombuffer(memoryview(addresses.buffer), dtype=layout.dtype)
        rows.flags.writeable = False
        self._rows = rows.reshape(-1, *layout.row_shape)
        # Chunk -> the row up to which it is mapped; the list is for single rows, where numpy would be slow.
        self._stops = [0] * layout.n_chunks
        self._stop_of = np.zeros(layout.n_chunks, dtype=np.int64)

    def read(self, start: int, stop: int) -> FloatArray:
        """Rows [start, stop), always a view."""
        if start < stop:
            # The path of every window of a training run: one comparison, one slice.
            first = start // self._chunk_rows
            if self._stops[first] < stop:
                for chunk in range(first, (stop - 1) // self._chunk_rows + 1):
                    self._open(chunk, min(stop, (chunk + 1) * self._chunk_rows))
        return self._rows[start:stop]

    def take(self, rows: npt.NDArray[np.int64], out: FloatArray) -> None:
        """Copy `rows` to `out`."""
        chunks = rows // self._chunk_rows
        unopened = self._stop_of[chunks] <= rows
        if unopened.any():
            for chunk in np.unique(chunks[unopened]).tolist():
                self._open(chunk, int(rows[chunks == chunk].max()) + 1)
        # Every row is within the array; "clip" only spares numpy a buffer for the case of an error.
        np.take(self._rows, rows, axis=0, out=out, mode="clip")

    def forget(self, chunk: int) -> None:
        """Map a chunk anew when it is next asked for."""
        self._stops[chunk] = self._stop_of[chunk] = 0

    def _open(self, chunk: int, stop: int) -> None:
        """Map a chunk's rows, at least up to the table's row `stop`."""
        if self._stops[chunk] >= stop:
            return
        start = chunk * self._chunk_rows
        n_there = self._committed.check_there(chunk, stop - start)
        chunks = self._committed.chunks
        if not self._storage.map_at(chunks.key(chunk), self._addresses, chunk, self._committed.layout.chunk_bytes):
            raise chunks.damaged(chunk)
        self._committed.check_rows(chunk, self._rows[start : start + n_there])
        self._stops[chunk] = self._stop_of[chunk] = start + n_there


class ChunkArrays(RowViews):
    """Each chunk as an array of its own; those of an object store are fetched side by side, and so many are kept.

    Parameters
    ----------
    committed
        The chunks.
    """

    def __init__(self, committed: CommittedChunks) -> None:
        self._committed = committed
        self._chunk_rows = committed.layout.chunk_rows
        self._arrays: dict[int, FloatArray] = {}  # chunk -> its committed rows
        self._most_kept = max(2, _MAX_FETCHED_BYTES // committed.layout.chunk_bytes)  # of an object store

    def read(self, start: int, stop: int) -> FloatArray:
        """Rows [start, stop); a view where they are of one chunk."""
        chunk, first = divmod(start, self._chunk_rows)
        last = first + stop - start
        array = self._arrays.get(chunk)
        if array is not None and last <= len(array):
            return array[first:last]
        layout = self._committed.layout
        parts: list[FloatArray] = []
        while start < stop:
            chunk, first = divmod(start, self._chunk_rows)
            last = min(first + stop - start, self._chunk_rows)
            parts.append(self._array(chunk, last)[first:last])
            start += last - first
        if not parts:
            return np.empty((0, *layout.row_shape), dtype=layout.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, rows: npt.NDArray[np.int64], out: FloatArray) -> None:
        """Copy `rows` to `out`: run by run, or sorted and chunk by chunk."""
        is_remote = self._committed.storage.is_remote
        if is_remote:
            self._fetch(np.unique(rows // self._chunk_rows))
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0]) != 1)  # of runs of consecutive rows; 0 is among them
        # Of an object store each chunk is gone through once, in case not all of them can be kept.
        if len(starts) * _MIN_MEAN_RUN <= len(rows) and not is_remote:
            stops = np.append(starts[1:], len(rows))
            for first, at, upto in zip(rows[starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
                out[at:upto] = self.read(first, first + upto - at)
            return
        order = np.argsort(rows)
        chunk_of, within = np.divmod(rows[order], self._chunk_rows)
        chunks, starts = np.unique(chunk_of, return_index=True)
        stops = np.append(starts[1:], len(rows))
        ordered = np.empty_like(out)
        for chunk, at, upto in zip(chunks.tolist(), starts.tolist(), stops.tolist(), strict=True):
            array = self._array(chunk, int(within[upto - 1]) + 1)
            np.take(array, within[at:upto], axis=0, out=ordered[at:upto], mode="clip")
        out[order] = ordered

    def forget(self, chunk: int) -> None:
        """Open a chunk anew when it is next asked for."""
        self._arrays.pop(chunk, None)

    def _array(self, chunk: int, n_rows: int) -> FloatArray:
        """A chunk's committed rows, at least the first `n_rows`."""
        array = self._arrays.get(chunk)
        if array is None or len(array) < n_rows:
            n_there = self._committed.check_there(chunk, n_rows)
            array = self._committed.open(chunk, n_there)
            if self._committed.storage.is_remote:
                for old in list(self._arrays)[: len(self._arrays) + 1 - self._most_kept]:
                    self._arrays.pop(old, None)
            self._arrays[chunk] = array
        return array

    def _fetch(self, chunks: npt.NDArray[np.int64]) -> None:
        """Bring chunks of an object store here side by side, as far as they are to be kept."""
        missing = [chunk for chunk in chunks.tolist() if chunk not in self._arrays][: self._most_kept]
        if len(missing) > 1:
            with ThreadPoolExecutor(MAX_REQUESTS) as pool:
                list(pool.map(lambda chunk: self._array(chunk, 1), missing))
