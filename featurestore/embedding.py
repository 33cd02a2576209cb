"""The embeddings of one encoder, read: whole, by rows, or gathered; never a row that was not committed.

A whole array is read chunk by chunk into place. Rows are slices of mapped chunks, which processes share; of an
object store whole chunks are fetched, many at a time, and looked at before they are used.
A store may be read while it is written: a map is trimmed to the rows that were committed when it was made,
and made again when more are asked for.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from .chunks import ChunkFiles, empty_pages
from .commits import CommitLog, commit_of
from .errors import MissingEmbeddingsError, ShapeError, StoreError
from .failures import FailureLog
from .layout import EmbeddingDType, FloatArray
from .metadata import COMMITS, EMBEDDING, FAILURES, read_encoder
from .provenance import Provenance
from .storage.base import Storage

_MAX_READERS: Final = 4  # reading is bound by memory long before
_MAX_REQUESTS: Final = 16  # of an object store, side by side
_MAX_FETCHED: Final = 64  # chunks of an object store that are kept in memory, about 256 MB
_MIN_MEAN_RUN: Final = 4  # rows; shorter runs are gathered chunk by chunk, longer ones copied one by one


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
        self.commits = CommitLog(storage, f"{name}/{COMMITS}", self.layout)
        self.chunks = ChunkFiles(storage, f"{name}/{EMBEDDING}", self.layout)
        self.failure_log = FailureLog(storage, f"{name}/{FAILURES}")
        self._chunk_rows = self.layout.chunk_rows
        self._views: dict[int, FloatArray] = {}  # chunk -> its committed rows, mapped

    def __reduce__(self) -> "tuple[Callable[[Storage, str, int], Embedding], tuple[Storage, str, int]]":
        # Maps do not travel to another process; each opens its own, and the page cache is shared anyway.
        return Embedding, (self.storage, self.name, self.n_frames)

    def __repr__(self) -> str:
        return f"Embedding({self.name!r}, {self.n_frames} x {self.row_shape}, {self.dtype})"

    @property
    def frames_fingerprint(self) -> str:
        """Fingerprint of the frames that it has room for."""
        return self.record.frames.fingerprint

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

    def committed(self) -> npt.NDArray[np.bool_]:
        """Which rows are there, shape (n_frames,); a failed frame's row is there, and holds NaN."""
        within = np.arange(self._chunk_rows)
        there: npt.NDArray[np.bool_] = within < self.commits.rows()[:, None]  # (n_chunks, chunk_rows)
        return there.reshape(-1)[: self.n_frames]

    def rows_done(self) -> int:
        """How many rows are there."""
        lengths = np.minimum(self._chunk_rows, self.n_frames - np.arange(self.layout.n_chunks) * self._chunk_rows)
        # A chunk may hold more rows than we know of: the store has grown since we opened it.
        return int(np.minimum(self.commits.rows(), lengths).sum())

    def is_complete(self) -> bool:
        """Whether every row is there."""
        return self.rows_done() == self.n_frames

    def failures(self) -> dict[int, str]:
        """Table row -> reason, ascending, of the committed frames that could not be embedded."""
        found: dict[int, str] = {}
        for chunk in self.failure_log.chunks():
            start, _ = self.layout.span(chunk)
            stop = start + self.commits.read(chunk).n_rows
            found |= {row: why for row, why in self.failure_log.read(chunk).items() if row < stop}
        return found

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
            raise self._missing(f"{n_done} of {self.n_frames} rows are there")
        loaded = empty_pages((self.n_frames, *self.row_shape), self.dtype)
        is_remote = self.storage.is_remote
        n_readers = _MAX_REQUESTS if is_remote else min(_MAX_READERS, os.cpu_count() or 1)
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
        """Rows [start, stop), shape (stop - start, *row_shape); read-only where it is a view of one chunk.

        Raises
        ------
        ShapeError
            If the rows are not within the table.
        MissingEmbeddingsError
            If one of them is not committed.
        """
        # The path of every window of a training run: one lookup, one comparison, one slice.
        chunk, first = divmod(start, self._chunk_rows)
        last = first + stop - start
        view = self._views.get(chunk)
        if view is not None and first <= last <= len(view):
            return view[first:last]
        self._check_span(start, stop)
        parts: list[FloatArray] = []
        while start < stop:
            chunk, first = divmod(start, self._chunk_rows)
            last = min(first + stop - start, self._chunk_rows)
            parts.append(self._view(chunk, last)[first:last])
            start += last - first
        if not parts:
            return np.empty((0, *self.row_shape), dtype=self.dtype)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
        self._check_span(start, stop)
        if out.shape != (stop - start, *self.row_shape) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ShapeError(
                f"Rows [{start}, {stop}) are copied to {self.dtype} of shape {(stop - start, *self.row_shape)}, in C "
                f"order, not to {out.dtype} of {out.shape} (encoder {self.name!r}). Make such an array."
            )
        at = 0
        while start < stop:
            chunk, first = divmod(start, self._chunk_rows)
            n_rows = min(self._chunk_rows - first, stop - start)
            self._check_committed(chunk, first + n_rows)
            if self.storage.is_remote:
                out[at : at + n_rows] = self._view(chunk, first + n_rows)[first : first + n_rows]
            else:
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
            self._gather_into(gathered.reshape(flat.size, *self.row_shape), flat.astype(np.int64, copy=False))
        return gathered

    def _gather_into(self, out: FloatArray, rows: npt.NDArray[np.int64]) -> None:
        """Copy `rows`, shape (n_rows,) with at least one, to `out`, shape (n_rows, *row_shape)."""
        if self.storage.is_remote:
            self._fetch(np.unique(rows // self._chunk_rows))
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0]) != 1)  # of runs of consecutive rows; 0 is among them
        if len(starts) * _MIN_MEAN_RUN <= len(rows):
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
            view = self._view(chunk, int(within[upto - 1]) + 1)
            # Every index is within the view; "clip" only spares numpy a buffer for the case of an error.
            np.take(view, within[at:upto], axis=0, out=ordered[at:upto], mode="clip")
        out[order] = ordered

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
        start, _ = self.layout.span(chunk)
        try:
            commit = self.commits.read(chunk)
            if not commit.n_rows:
                return True
            if commit.n_rows > self._chunk_rows:
                return False
            rows = self.chunks.map(chunk)[: commit.n_rows]
            reasons = self.failure_log.read(chunk)
            return commit_of(rows) == commit and _failed_rows(rows, start) == {
                row for row in reasons if row < start + commit.n_rows
            }
        except StoreError:
            return False

    def ends_sound(self, chunk: int, n_rows: int) -> bool:
        """Whether the last of a chunk's `n_rows` committed rows is there; nothing else is looked at.

        It is not where a kill hit one of two workers that wrote the same chunk: then the shorter version may stand
        under the commit of the longer one, and ends in NaN.
        """
        row: FloatArray = np.empty((1, *self.row_shape), dtype=self.dtype)
        self.chunks.read_into(chunk, row, first=n_rows - 1)
        if not np.isnan(row.flat[0]):
            return True
        start, _ = self.layout.span(chunk)
        failed = {each - start for each in self.failure_log.read(chunk)}
        last = next((each for each in range(n_rows - 1, -1, -1) if each not in failed), None)
        if last is None:
            return True
        self.chunks.read_into(chunk, row, first=last)
        return not np.isnan(row.flat[0])

    def _withdraw(self, chunk: int) -> None:
        self.commits.remove(chunk)
        self._views.pop(chunk, None)

    def _read_chunk(self, chunk: int, out: FloatArray) -> None:
        """Read a committed chunk's rows into `out`; damage that is seen without much work is a StoreError."""
        if not self.chunks.is_whole(chunk):
            raise self.chunks.damaged(chunk)
        self.chunks.read_into(chunk, out)
        if self.storage.is_remote:
            self._check_fetched(chunk, out)
        elif np.isnan(out[-1].flat[0]) and not self.ends_sound(chunk, len(out)):
            raise self.chunks.damaged(chunk, "its last rows are missing")

    def _view(self, chunk: int, n_rows: int) -> FloatArray:
        """A chunk's committed rows, mapped; at least the first `n_rows` or an error."""
        view = self._views.get(chunk)
        if view is None or len(view) < n_rows:
            n_there = self._check_committed(chunk, n_rows)
            view = self.chunks.map(chunk)[:n_there]
            if self.storage.is_remote:
                self._check_fetched(chunk, view)
                for old in list(self._views)[: len(self._views) + 1 - _MAX_FETCHED]:
                    self._views.pop(old, None)
            elif np.isnan(view[-1].flat[0]) and not self.ends_sound(chunk, n_there):
                raise self.chunks.damaged(chunk, "its last rows are missing")
            self._views[chunk] = view
        return view

    def _fetch(self, chunks: npt.NDArray[np.int64]) -> None:
        """Bring chunks of an object store here side by side, as far as they are to be kept."""
        missing = [chunk for chunk in chunks.tolist() if chunk not in self._views][:_MAX_FETCHED]
        if len(missing) > 1:
            with ThreadPoolExecutor(_MAX_REQUESTS) as pool:
                list(pool.map(lambda chunk: self._view(chunk, 1), missing))

    def _check_fetched(self, chunk: int, rows: FloatArray) -> None:
        """Hash what came over the network; it costs little beside that."""
        commit = self.commits.read(chunk)
        if commit.n_rows == len(rows) and commit_of(rows) != commit:
            raise self.chunks.damaged(chunk, "it has other bytes than were written")

    def _check_committed(self, chunk: int, n_rows: int) -> int:
        """How many rows of a chunk are committed; fewer than `n_rows` is an error."""
        start, stop = self.layout.span(chunk)
        n_there = self.commits.read(chunk).n_rows
        if n_there < n_rows:
            raise self._missing(f"row {start + n_there} is not there")
        return min(n_there, stop - start)

    def _check_span(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_frames:
            raise ShapeError(
                f"Rows [start, stop) lie within the table's {self.n_frames} frames, not [{start}, {stop}) "
                f"(encoder {self.name!r}). Check that the frames and the embeddings are of one store."
            )

    def _missing(self, what: str) -> MissingEmbeddingsError:
        return MissingEmbeddingsError(
            f"Embeddings of encoder {self.name!r} are not complete: {what} (store: {self.storage.location}). "
            f"Run `abaw extract --encoder {self.name}`, which goes on where it stopped."
        )


def _failed_rows(rows: FloatArray, start: int) -> set[int]:
    """Table rows among a chunk's `rows`, the first of which is `start`, that hold NaN."""
    firsts = rows.reshape(len(rows), -1)[:, 0]  # a failed row is NaN throughout
    return set((np.flatnonzero(np.isnan(firsts)) + start).tolist())
