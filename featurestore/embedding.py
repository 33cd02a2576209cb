"""The embeddings of one encoder, read: whole, by rows, or gathered; never a row that was not committed.

A whole array is read file by file into place. Rows are slices of memory-mapped chunks, which processes share.
A store may be read while it is written: a map is trimmed to the rows that were committed when it was made,
and made again when more are asked for.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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

_MAX_READERS: Final = 4  # reading is bound by memory long before
_MIN_MEAN_RUN: Final = 4  # rows; shorter runs are gathered chunk by chunk, longer ones copied one by one


class Embedding:
    """One encoder's embeddings in a feature store.

    Parameters
    ----------
    path
        The encoder's group, ``<store>/<name>``.

    Raises
    ------
    StoreError
        If the group is damaged.
    """

    def __init__(self, path: Path) -> None:
        record = read_encoder(path)
        self.path = path
        self.name = path.name
        self.layout = record.layout
        self.provenance: Provenance = record.provenance
        self.frames_fingerprint = record.frames
        self.commits = CommitLog(path / COMMITS, record.layout.n_chunks)
        self.chunks = ChunkFiles(path / EMBEDDING, record.layout)
        self.failure_log = FailureLog(path / FAILURES)
        self._chunk_rows = record.layout.chunk_rows
        self._views: dict[int, FloatArray] = {}  # chunk -> its committed rows, mapped

    def __reduce__(self) -> tuple[Callable[[Path], "Embedding"], tuple[Path]]:
        # Maps do not travel to another process; each opens its own, and the page cache is shared anyway.
        return Embedding, (self.path,)

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

    def committed(self) -> npt.NDArray[np.bool_]:
        """Which rows are there, shape (n_frames,); a failed frame's row is there, and holds NaN."""
        within = np.arange(self._chunk_rows)
        there: npt.NDArray[np.bool_] = within < self.commits.rows()[:, None]  # (n_chunks, chunk_rows)
        return there.reshape(-1)[: self.n_frames]

    def rows_done(self) -> int:
        """How many rows are there."""
        return int(self.commits.rows().sum())

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

        n_readers = min(_MAX_READERS, os.cpu_count() or 1)
        stripes = np.array_split(np.arange(self.layout.n_chunks), n_readers)

        def read(stripe: npt.NDArray[np.int64]) -> None:
            for chunk in stripe.tolist():
                start, stop = self.layout.span(chunk)
                self.chunks.read_into(chunk, loaded[start:stop])

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
        if not 0 <= start <= stop <= self.n_frames:
            raise ShapeError(
                f"Rows [start, stop) lie within the table's {self.n_frames} frames, not [{start}, {stop}) "
                f"(encoder {self.name!r}). Check that the frames and the embeddings are of one store."
            )
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
        """Copy rows [start, stop) to `out`, shape (stop - start, *row_shape); errors as of `read`."""
        out[...] = self.read(start, stop)

    def gather(self, rows: npt.NDArray[np.integer]) -> FloatArray:
        """The rows named by an integer array of any shape, shape (*rows.shape, *row_shape); a copy.

        Raises
        ------
        ShapeError
            If `rows` are not integers within the table.
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
        gathered: FloatArray = np.empty((flat.size, *self.row_shape), dtype=self.dtype)
        if flat.size:
            self._gather_into(gathered, flat.astype(np.int64, copy=False))
        return gathered.reshape(*wanted.shape, *self.row_shape)

    def _gather_into(self, out: FloatArray, rows: npt.NDArray[np.int64]) -> None:
        """Copy `rows`, shape (n_rows,) with at least one, to `out`, shape (n_rows, *row_shape)."""
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
        """Chunks whose committed rows are not what was written, by hash; ascending."""
        return [chunk for chunk in range(self.layout.n_chunks) if not self.is_sound(chunk)]

    def repair(self) -> list[int]:
        """Take back the commits of the chunks that `verify` names, so that extraction computes them again; those."""
        bad = self.verify()
        for chunk in bad:
            self.commits.remove(chunk)
            self._views.pop(chunk, None)
        return bad

    def forget(self, rows: npt.NDArray[np.integer]) -> None:
        """Take back the commits of the chunks that hold these rows, so that the next extraction computes them again."""
        for chunk in np.unique(rows // self.chunk_rows).tolist():
            self.commits.remove(chunk)

    def is_sound(self, chunk: int) -> bool:
        """Whether a chunk's committed rows are what was written; True where nothing is committed."""
        commit = self.commits.read(chunk)
        if not commit.n_rows:
            return True
        start, stop = self.layout.span(chunk)
        if commit.n_rows > stop - start:
            return False
        try:
            return commit_of(self.chunks.map(chunk)[: commit.n_rows]) == commit
        except StoreError:
            return False

    def _view(self, chunk: int, n_rows: int) -> FloatArray:
        """A chunk's committed rows, mapped; at least the first `n_rows` or an error."""
        view = self._views.get(chunk)
        if view is None or len(view) < n_rows:
            n_there = self.commits.read(chunk).n_rows
            start, _ = self.layout.span(chunk)
            if n_there < n_rows:
                raise self._missing(f"row {start + n_there} is not there")
            view = self.chunks.map(chunk)[:n_there]
            self._views[chunk] = view
        return view

    def _missing(self, what: str) -> MissingEmbeddingsError:
        return MissingEmbeddingsError(
            f"Embeddings of encoder {self.name!r} are not complete: {what} (store: {self.path.parent}). "
            f"Run `abaw extract --encoder {self.name}`, which goes on where it stopped."
        )
