"""The committed chunks of one encoder: how many rows of each count, and whether they are what was written."""

from typing import Final

import numpy as np
import numpy.typing as npt

from .chunks import ChunkFiles
from .commits import CommitLog, commit_of
from .errors import MissingEmbeddingsError, StoreError
from .failures import FailureLog
from .layout import ChunkLayout, FloatArray
from .storage.base import Storage

EMBEDDING: Final = "embedding"
COMMITS: Final = "commits"
FAILURES: Final = "failures"


class CommittedChunks:
    """An encoder's chunks, commits and failures, seen together.

    Parameters
    ----------
    storage
        What the store is kept in.
    name
        Of the encoder.
    layout
        Of its embedding.
    """

    def __init__(self, storage: Storage, name: str, layout: ChunkLayout) -> None:
        self.storage = storage
        self.name = name
        self.layout = layout
        self.commits = CommitLog(storage, f"{name}/{COMMITS}", layout)
        self.chunks = ChunkFiles(storage, f"{name}/{EMBEDDING}", layout)
        self.failure_log = FailureLog(storage, f"{name}/{FAILURES}")

    def n_rows(self) -> npt.NDArray[np.int64]:
        """Committed rows of every chunk, shape (n_chunks,)."""
        firsts = np.arange(self.layout.n_chunks) * self.layout.chunk_rows
        # A chunk may hold more rows than we know of: the store has grown since we opened it.
        return np.minimum(self.commits.rows(), self.layout.n_frames - firsts)

    def failures(self) -> dict[int, str]:
        """Table row -> reason, ascending, of the committed frames that could not be embedded."""
        found: dict[int, str] = {}
        for chunk in self.failure_log.chunks():
            if chunk < self.layout.n_chunks:
                start, stop = self.layout.span(chunk)
                stop = min(stop, start + self.commits.read(chunk).n_rows)
                found |= {row: why for row, why in self.failure_log.read(chunk).items() if row < stop}
        return found

    def check_there(self, chunk: int, n_rows: int) -> int:
        """How many rows of a chunk are committed; fewer than `n_rows` is a MissingEmbeddingsError."""
        start, stop = self.layout.span(chunk)
        n_there = self.commits.read(chunk).n_rows
        if n_there < n_rows:
            raise self.missing(f"row {start + n_there} is not there")
        return min(n_there, stop - start)

    def open(self, chunk: int, n_rows: int) -> FloatArray:
        """A chunk's first `n_rows` rows, which are committed, looked at before they are used; StoreError otherwise."""
        try:
            rows = self.chunks.map(chunk)[:n_rows]
            self.check_rows(chunk, rows)
        except StoreError:
            if not self.storage.drop_copy(self.chunks.key(chunk)):
                raise
            rows = self.chunks.map(chunk)[:n_rows]
            self.check_rows(chunk, rows)
        return rows

    def check_rows(self, chunk: int, rows: FloatArray) -> None:
        """Refuse (StoreError) a chunk's committed rows if that they are damaged is seen without much work."""
        if self.storage.is_remote:
            # What came over the network is hashed, which costs little beside that.
            commit = self.commits.read(chunk)
            if commit.n_rows == len(rows) and commit_of(rows) != commit:
                raise self.chunks.damaged(chunk, "it has other bytes than were written")
        start, _ = self.layout.span(chunk)
        if (failed := _failed_rows(rows, start)) and not failed <= self.failure_log.read(chunk).keys():
            raise self.chunks.damaged(chunk, "rows of it are missing")

    def withdraw(self, chunk: int) -> None:
        """Take a chunk back, its commit first: it is computed again."""
        self.commits.remove(chunk)
        # Left there, a power cut that takes back the new chunk's name would bring these rows under the new commit.
        self.chunks.remove(chunk)
        self.failure_log.write(chunk, {})

    def ends_sound(self, chunk: int, n_rows: int) -> bool:
        """Whether the last of a chunk's `n_rows` committed rows is there; nothing else is looked at.

        It is not where a kill hit one of two workers that wrote the same chunk: then the shorter version may stand
        under the commit of the longer one, and ends in NaN.
        """
        row: FloatArray = np.empty((1, *self.layout.row_shape), dtype=self.layout.dtype)
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

    def is_sound(self, chunk: int) -> bool:
        """Whether a chunk's committed rows are what was written; True where nothing is committed."""
        start, _ = self.layout.span(chunk)
        try:
            commit = self.commits.read(chunk)
            if not commit.n_rows:
                return True
            if commit.n_rows > self.layout.chunk_rows:
                return False
            self.storage.drop_copy(self.chunks.key(chunk))  # the store is asked, not a copy of it
            rows = self.chunks.map(chunk)[: commit.n_rows]
            failed = {row for row in self.failure_log.read(chunk) if row < start + commit.n_rows}
            return commit_of(rows) == commit and _failed_rows(rows, start) == failed
        except StoreError:
            return False

    def missing(self, what: str) -> MissingEmbeddingsError:
        """The error for rows that are asked for and not there."""
        return MissingEmbeddingsError(
            f"Embeddings of encoder {self.name!r} are not complete: {what} (store: {self.storage.location}). "
            f"Run `abaw extract --encoder {self.name}`, which goes on where it stopped."
        )


def _failed_rows(rows: FloatArray, start: int) -> set[int]:
    """Table rows among a chunk's `rows`, the first of which is `start`, that hold NaN."""
    firsts = rows.reshape(len(rows), -1)[:, 0]  # a failed row is NaN throughout
    return set((np.flatnonzero(np.isnan(firsts)) + start).tolist())
