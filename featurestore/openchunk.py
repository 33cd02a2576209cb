"""The chunk that is being written: its rows so far, and how they reach the disk.

Order of writing: the chunk, its failures, its commit; the first two flushed before the next begins. A kill between
any two leaves the last commit true (see commits.py). Two workers that were given the same chunk write the same rows;
the one with fewer leaves what the other has committed, and each looks whether what it wrote stands.
"""

from collections.abc import Collection, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from .commits import NO_COMMIT, commit_of
from .embedding import Embedding
from .errors import StoreError
from .layout import FloatArray
from .precision import store_rows

_MOST_TRIES: Final = 20  # each is lost only if another worker writes the chunk in the same few milliseconds


def sound_rows(embedding: Embedding, chunk: int, n_committed: int) -> int:
    """Rows of a chunk that need not be computed again, if the chunk is whole.

    A partly written chunk is hashed, since it will be continued. Of a finished one only the last row is looked at:
    hashing a whole store is `verify`'s work.
    """
    start, stop = embedding.layout.span(chunk)
    if not n_committed:
        return 0
    is_sound = (
        embedding.rows.ends_sound(chunk, n_committed) if n_committed == stop - start else embedding.is_sound(chunk)
    )
    return min(n_committed, stop - start) if is_sound else 0


class OpenChunk:
    """One chunk's rows, from what is committed to what was appended since.

    Parameters
    ----------
    embedding
        The encoder's embeddings.
    chunk
        Its number. Committed rows are read back if they are sound; otherwise their commit is withdrawn and
        the chunk starts over.
    at
        The table row that the caller goes on with; rows before those that are missing may come again, since another
        worker may have committed them meanwhile.
    now_s
        The time it was opened, on the writer's clock.
    buffer : shape (chunk_rows, *row_shape)
        Memory to use, of a chunk that is done; None for new.
    """

    def __init__(
        self, embedding: Embedding, chunk: int, *, at: int, now_s: float, buffer: FloatArray | None = None
    ) -> None:
        self.chunk = chunk
        self.start, self.stop = embedding.layout.span(chunk)
        self.committed_at_s = now_s
        self._embedding = embedding
        shape = (embedding.chunk_rows, *embedding.row_shape)
        self.buffer: FloatArray = np.empty(shape, dtype=embedding.dtype) if buffer is None else buffer
        self._failures: dict[int, str] = {}
        embedding.check_current()
        committed = embedding.commits.read(chunk)
        is_whole = embedding.chunks.is_whole(chunk)
        self.n_committed = sound_rows(embedding, chunk, committed.n_rows) if is_whole else 0
        if self.n_committed:
            embedding.chunks.read_into(chunk, self.buffer[: self.n_committed])
            reasons = embedding.failure_log.read(chunk)
            self._failures = {row: why for row, why in reasons.items() if row < self.start + self.n_committed}
        elif committed != NO_COMMIT:
            embedding.rows.withdraw(chunk)
        self._n_rows = min(at, first_row(embedding, chunk, self.n_committed)) - self.start

    @property
    def next_row(self) -> int:
        """The table row that is appended next."""
        return self.start + self._n_rows

    @property
    def is_full(self) -> bool:
        """Whether it holds all its rows."""
        return self.next_row == self.stop

    @property
    def n_unaligned(self) -> int:
        """Rows after the last whole batch, which a commit leaves out."""
        return 0 if self.is_full else self._n_rows % self._embedding.batch_rows

    def append(self, rows: npt.NDArray[np.floating], failures: Mapping[int, str]) -> None:
        """Take the next rows, which must fit; of rows that are committed the committed values stay."""
        first, upto = self._n_rows, self._n_rows + len(rows)
        n_kept = min(max(self.n_committed - first, 0), len(rows))
        fresh = self.start + first + n_kept
        failed: Collection[int] = [row for row in failures if row >= fresh]
        store_rows(
            rows[n_kept:], self.buffer[first + n_kept : upto], start=fresh, failed=failed, encoder=self._embedding.name
        )
        self._failures.update((row, failures[row]) for row in failed)
        self._n_rows = upto

    def commit(self, now_s: float) -> None:
        """Bring all whole batches to disk; nothing happens if they are there already."""
        n_rows = self._n_rows - self.n_unaligned
        self.committed_at_s = now_s
        if n_rows <= self.n_committed:
            return
        self._embedding.check_current()
        failures = {row: why for row, why in self._failures.items() if row < self.start + n_rows}
        there = self._embedding.commits.read(self.chunk)
        if there.n_rows < n_rows or not self._stands(there.n_rows, failures):
            self._write(n_rows, failures)
        self.n_committed = n_rows

    def _write(self, n_rows: int, failures: Mapping[int, str]) -> None:
        """Write until it stands: another worker may put its shorter version between our chunk and our commit."""
        embedding, rows = self._embedding, self.buffer[:n_rows]
        commit = commit_of(rows)
        for _ in range(_MOST_TRIES):
            embedding.chunks.write(self.chunk, rows)
            embedding.failure_log.write(self.chunk, failures)
            if failures:
                embedding.storage.sync()  # or a power cut could keep the commit, and take back why rows are NaN
            embedding.commits.write(self.chunk, commit)
            if self._stands(n_rows, failures):
                return
        raise StoreError(
            f"Chunk {self.chunk} of encoder {embedding.name!r} was overwritten {_MOST_TRIES} times by another worker "
            f"(store: {embedding.storage.location}). Check that nothing else writes there, and run the command again."
        )

    def _stands(self, n_rows: int, failures: Mapping[int, str]) -> bool:
        """Whether the chunk has `n_rows` rows, and these failures."""
        embedding = self._embedding
        if not embedding.chunks.is_whole(self.chunk) or not embedding.rows.ends_sound(self.chunk, n_rows):
            return False
        return failures.keys() <= embedding.failure_log.read(self.chunk).keys()


def first_row(embedding: Embedding, chunk: int, n_sound: int) -> int:
    """The table row with which a chunk goes on that has `n_sound` rows: the first of a batch, or its end.

    Rows within a batch are there only where the table ended and has grown since. Their batch is computed once more, and
    their committed values stay.
    """
    start, stop = embedding.layout.span(chunk)
    if n_sound == stop - start:
        return stop
    return start + n_sound - n_sound % embedding.batch_rows
