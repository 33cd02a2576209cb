"""Writing one encoder's embeddings: in batches, chunk by chunk, safe against a kill at any moment.

Embeddings of a batch may differ in their last bit when the batch is composed differently, so batches are aligned:
batch i covers table rows [i * batch_rows, (i + 1) * batch_rows), the size is recorded when the group is made, and
a partial commit falls on a batch's border. A resumed run therefore computes the same batches, and the finished
store is the same to the bit. A worker owns whole chunks; workers on any number of machines need no lock.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .errors import ConfigError, ShapeError, StorageFullError
from .layout import FloatArray
from .openchunk import OpenChunk, first_row, sound_rows

COMMIT_EVERY_S: Final = 30.0
"""A chunk that fills slowly is committed this often, so that a kill loses half a minute at most."""


class Share(NamedTuple):
    """One worker's part of an extraction: the `number`-th, from 1, of so many."""

    number: int
    of: int


WHOLE: Final = Share(1, 1)


class ChunkTask(NamedTuple):
    """Rows of one chunk that are still to compute: table rows [start, stop)."""

    chunk: int
    start: int
    stop: int


class EmbeddingWriter:
    """Appends rows to one encoder's embeddings; made by `FeatureStore.writer`.

    As a context manager it flushes at the end, on an error too: what was computed is kept. It is for one thread.

    Parameters
    ----------
    embedding
        What is written.
    commit_every_s
        Seconds after which a partly filled chunk is committed.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        embedding: Embedding,
        *,
        commit_every_s: float = COMMIT_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.embedding = embedding
        self._commit_every_s = commit_every_s
        self._clock = clock
        self._open: OpenChunk | None = None
        self._spare: FloatArray | None = None  # of the chunk before; fresh memory costs as much as filling it

    @property
    def batch_rows(self) -> int:
        """Rows of a batch, as recorded when the encoder's group was made."""
        return self.embedding.batch_rows

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk, as recorded when the encoder's group was made."""
        return self.embedding.chunk_rows

    def pending(self, share: Share = WHOLE) -> list[ChunkTask]:
        """What is still to compute, in table order: one task for every chunk that is not done.

        Parameters
        ----------
        share
            Only the chunks of this share: of so many equal parts of the table, so that encoders with chunks of
            different sizes share the frames they decode.
        """
        tasks: list[ChunkTask] = []
        whole, n_chunks = self.embedding.chunks.whole(), self.embedding.layout.n_chunks
        for chunk, n_committed in enumerate(self.embedding.commits.rows().tolist()):
            if chunk * share.of // n_chunks != share.number - 1:
                continue
            if self._open is not None and self._open.chunk == chunk:
                start = self._open.next_row
            else:
                n_sound = sound_rows(self.embedding, chunk, n_committed) if chunk in whole else 0
                start = first_row(self.embedding, chunk, n_sound)
            _, stop = self.embedding.layout.span(chunk)
            if start < stop:
                tasks.append(ChunkTask(chunk, start, stop))
        return tasks

    def append(self, start: int, rows: npt.NDArray[np.floating], failures: Mapping[int, str] | None = None) -> None:
        """Add the embeddings of table rows [start, start + len(rows)), which go on where their chunk stands.

        Of rows that were committed before, by another worker perhaps, the committed values stay.

        Parameters
        ----------
        start
            Table row of the first.
        rows : shape (n_rows, *row_shape)
            Embeddings, all of one chunk; what stands in a failed row does not matter.
        failures
            Table row -> reason, for the frames among them that could not be embedded.

        Raises
        ------
        ShapeError
            If the rows are of another shape, leave their chunk, or do not go on where it stands.
        ConfigError
            If a failure is not among the rows, or another chunk was left in the middle of a batch.
        PrecisionError
            If a value does not fit the store's dtype.
        StoreError
            If a row that did not fail holds NaN.
        StorageFullError
            If there is no space left; what was committed is safe.
        """
        rows = np.asarray(rows)
        reasons = dict(failures or {})
        self._check_block(start, rows)
        stop = start + len(rows)
        if strangers := [row for row in reasons if not start <= row < stop]:
            raise ConfigError(
                f"Failures are keyed by table rows within [{start}, {stop}), not {strangers[0]} "
                f"(encoder {self.embedding.name!r}). Add the block's first row to positions in a batch."
            )
        if not len(rows):
            return
        open_chunk = self._chunk_at(start)
        if start != open_chunk.next_row:
            raise ShapeError(
                f"Chunk {open_chunk.chunk} of encoder {self.embedding.name!r} goes on with table row "
                f"{open_chunk.next_row} of [{open_chunk.start}, {open_chunk.stop}), not with {start}. "
                "Take the rows from pending()."
            )
        open_chunk.append(rows, reasons)
        if open_chunk.is_full:
            self._commit(open_chunk)
            self._open, self._spare = None, open_chunk.buffer
        elif self._clock() - open_chunk.committed_at_s >= self._commit_every_s:
            self.flush()

    def flush(self) -> None:
        """Commit every whole batch that was appended; nothing of it is lost in a power cut any more."""
        if self._open is not None:
            self._commit(self._open)
        self.embedding.storage.sync()

    def _commit(self, chunk: OpenChunk) -> None:
        try:
            chunk.commit(self._clock())
        except StorageFullError as error:
            n_done = self.embedding.rows_done()
            raise StorageFullError(
                f"No space was left for chunk {chunk.chunk} of encoder {self.embedding.name!r}: {n_done} of "
                f"{self.embedding.n_frames} rows are safely committed (store: {self.embedding.storage.location}). "
                "Free some space and run the same command again: it goes on from there."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
            return
        # The error that brought us here is the one to report; a full disk would fail here a second time.
        with contextlib.suppress(Exception):
            self.flush()

    def _check_block(self, start: int, rows: npt.NDArray[np.floating]) -> None:
        layout = self.embedding.layout
        if rows.ndim != 1 + len(layout.row_shape) or rows.shape[1:] != layout.row_shape:
            raise ShapeError(
                f"Rows of encoder {self.embedding.name!r} have shape (n_rows, *{layout.row_shape}), "
                f"not {rows.shape}. Check the encoder's pooling, or remove the embeddings made with another one."
            )
        if not np.issubdtype(rows.dtype, np.floating):
            raise ShapeError(
                f"Rows of encoder {self.embedding.name!r} are floating point, not {rows.dtype}. Convert them first."
            )
        _, chunk_stop = layout.span(start // layout.chunk_rows)
        if start < 0 or start + len(rows) > chunk_stop:
            raise ShapeError(
                f"A block of rows lies within one chunk; rows [{start}, {start + len(rows)}) of encoder "
                f"{self.embedding.name!r} leave theirs, which ends at {chunk_stop}. Take the rows from pending()."
            )

    def _chunk_at(self, start: int) -> OpenChunk:
        """The open chunk of a table row; another one that is open is committed first."""
        chunk = start // self.embedding.chunk_rows
        if self._open is not None and self._open.chunk == chunk:
            return self._open
        if self._open is not None:
            if self._open.n_unaligned:
                raise ConfigError(
                    f"Chunk {self._open.chunk} of encoder {self.embedding.name!r} ends in the middle of a batch of "
                    f"{self.batch_rows} (next row: {self._open.next_row}). Append the batch's rest before going on "
                    f"to chunk {chunk}."
                )
            self._commit(self._open)
        self._open = OpenChunk(self.embedding, chunk, at=start, now_s=self._clock(), buffer=self._spare)
        self._spare = None
        return self._open
