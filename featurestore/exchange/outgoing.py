"""What an export writes: the rows of one encoder that hold an embedding, in blocks that fit in memory."""

from collections.abc import Iterator

import numpy as np

from featurestore.embedding import Embedding
from featurestore.layout import EmbeddingDType, FloatArray

from .keys import FrameIndex, IntArray
from .origin import Origin
from .source import block_rows


class Outgoing:
    """The vectors of an encoder on their way to a file.

    Parameters
    ----------
    embedding
        Every row of it is there.
    index
        Of the store's frames.
    origin
        The note for the file.
    """

    def __init__(self, embedding: Embedding, index: FrameIndex, origin: Origin) -> None:
        self._embedding = embedding
        self.index = index
        self.origin = origin
        self.rows: IntArray = np.flatnonzero(embedding.valid()).astype(np.int64)  # ascending

    @property
    def row_shape(self) -> tuple[int, ...]:
        """(dim,) or (n_tokens, dim)."""
        return self._embedding.row_shape

    @property
    def dtype(self) -> EmbeddingDType:
        """float16 or float32, little-endian."""
        return self._embedding.dtype

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""
        return block_rows(self.row_shape, self.dtype.itemsize)

    def blocks(self, rows: IntArray | None = None) -> Iterator[tuple[IntArray, FloatArray]]:
        """Table rows and their vectors, shape (n_rows, *row_shape), block by block; of all rows, or some."""
        wanted = self.rows if rows is None else rows
        for start in range(0, len(wanted), self.rows_at_once):
            part = wanted[start : start + self.rows_at_once]
            yield part, self._embedding.gather(part)

    def videos(self) -> Iterator[tuple[str, IntArray]]:
        """Every video that has vectors, with their table rows, ascending."""
        videos = np.asarray([self.index.videos[row] for row in self.rows.tolist()], dtype=object)
        begins = np.flatnonzero(videos[1:] != videos[:-1]) + 1  # of the second video, the third, ...
        for rows in np.split(self.rows, begins):
            yield self.index.videos[int(rows[0])], rows
