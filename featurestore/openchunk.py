"""The chunk that is being written: its rows so far, and how they reach the disk.

Order of writing: the chunk's file, its failures, its commit; each flushed and renamed into place before the next.
A kill between any two leaves the last commit true (see commits.py).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from .commits import NO_COMMIT, commit_of
from .embedding import Embedding
from .layout import FloatArray


def sound_rows(embedding: Embedding, chunk: int) -> int:
    """Rows of a chunk that need not be computed again.

    A partly written chunk is hashed, since it will be continued. Of a finished one only the file's size is looked
    at: hashing a whole store is `verify`'s work.
    """
    start, stop = embedding.layout.span(chunk)
    n_rows = embedding.commits.read(chunk).n_rows
    if not n_rows or not embedding.chunks.is_whole(chunk):
        return 0
    if n_rows == stop - start:
        return n_rows
    return n_rows if embedding.is_sound(chunk) else 0


def _remove_partials(path: Path) -> None:
    """Remove what killed runs left of replacing a file; its chunk is ours, so nobody is writing it now."""
    for partial in path.parent.glob(f".*.{path.name}"):
        partial.unlink(missing_ok=True)


class OpenChunk:
    """One chunk's rows, from what is committed to what was appended since.

    Parameters
    ----------
    embedding
        The encoder's embeddings.
    chunk
        Its number. Committed rows are read back if they are sound; otherwise their commit is withdrawn and
        the chunk starts over.
    now_s
        The time it was opened, on the writer's clock.
    """

    def __init__(self, embedding: Embedding, chunk: int, now_s: float) -> None:
        self.chunk = chunk
        self.start, self.stop = embedding.layout.span(chunk)
        self.committed_at_s = now_s
        self._embedding = embedding
        shape = (self.stop - self.start, *embedding.row_shape)
        self._rows: FloatArray = np.empty(shape, dtype=embedding.dtype)
        self._failures: dict[int, str] = {}
        for log in (embedding.chunks, embedding.failure_log, embedding.commits):
            _remove_partials(log.path(chunk))
        self.n_committed = sound_rows(embedding, chunk)
        if self.n_committed:
            embedding.chunks.read_into(chunk, self._rows[: self.n_committed])
            reasons = embedding.failure_log.read(chunk)
            self._failures = {row: why for row, why in reasons.items() if row < self.start + self.n_committed}
        elif embedding.commits.read(chunk) != NO_COMMIT:
            embedding.commits.remove(chunk)
        self._n_rows = self.n_committed

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

    def append(self, rows: FloatArray, failures: Mapping[int, str]) -> None:
        """Take the next rows, checked and in the store's dtype; they must fit."""
        self._rows[self._n_rows : self._n_rows + len(rows)] = rows
        self._failures.update(failures)
        self._n_rows += len(rows)

    def commit(self, now_s: float) -> None:
        """Bring all whole batches to disk; nothing happens if they are there already."""
        n_rows = self._n_rows - self.n_unaligned
        self.committed_at_s = now_s
        if n_rows == self.n_committed:
            return
        rows = self._rows[:n_rows]
        failures = {row: why for row, why in self._failures.items() if row < self.start + n_rows}
        self._embedding.chunks.write(self.chunk, rows)
        self._embedding.failure_log.write(self.chunk, failures)
        self._embedding.commits.write(self.chunk, commit_of(rows))
        self.n_committed = n_rows
