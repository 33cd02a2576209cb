"""A buffer that holds the rows of some windows, each row once, read from the store in ascending order.

Windows overlap, and they cross the borders of chunks. So what is held is the union of their rows, as runs of
consecutive rows put one behind the other: where a window lies in the buffer differs from where it lies in the
table by one number, its shift.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from .embedding import Embedding
from .layout import FloatArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of table rows.

    Attributes
    ----------
    rows : shape (n_windows, S), int64
        They should lie close together; they may repeat, and overlap those of other windows.
    first, stop : shape (n_windows,), int64
        Each window's first table row, and the one after its last.
    """

    rows: IntArray
    first: IntArray
    stop: IntArray

    @classmethod
    def of(cls, rows: IntArray) -> "Windows":
        """The windows of these rows."""
        return cls(rows, rows.min(axis=1), rows.max(axis=1) + 1)

    def __len__(self) -> int:
        return len(self.rows)


class WindowBuffer:
    """Room for the rows of some windows, filled again and again.

    Parameters
    ----------
    embeddings
        Encoder -> embeddings, of one store.
    windows
        All there are.
    n_rows
        How many rows of each encoder there is room for.
    """

    def __init__(self, embeddings: Mapping[str, Embedding], windows: Windows, n_rows: int) -> None:
        self._embeddings = embeddings
        self._windows = windows
        self._held: dict[str, FloatArray] = {
            name: np.empty((n_rows, *embedding.row_shape), dtype=embedding.dtype)
            for name, embedding in embeddings.items()
        }
        self.numbers: IntArray = np.empty(0, dtype=np.int64)
        """Of the windows that it holds, in the order in which they are to be used."""
        self._shift: IntArray = self.numbers  # (len(numbers),): place in the buffer less table row

    def fill(self, numbers: IntArray) -> Self:
        """Read the rows of the windows of these numbers, in place of whatever was held.

        Raises
        ------
        MissingEmbeddingsError, StoreError
            If a row is not committed, or its chunk is damaged.
        """
        first = self._windows.first[numbers]
        runs = merged_runs(first, self._windows.stop[numbers])  # (n_runs, 2)
        lengths = runs[:, 1] - runs[:, 0]
        places = np.cumsum(lengths) - lengths  # where each run starts in the buffer
        for name, embedding in self._embeddings.items():
            for (start, end), place in zip(runs.tolist(), places.tolist(), strict=True):
                _read(embedding, start, end, self._held[name][place : place + end - start])
        run = np.searchsorted(runs[:, 0], first, side="right") - 1
        self.numbers, self._shift = numbers, (places - runs[:, 0])[run]
        return self

    def copy(self, begin: int, end: int, out: Mapping[str, FloatArray]) -> None:
        """Copy the windows ``numbers[begin:end]`` to `out`, each shape (end - begin, S, *row_shape)."""
        places = self._windows.rows[self.numbers[begin:end]] + self._shift[begin:end, None]  # (n, S)
        for name, target in out.items():
            # Every place is within the buffer; "clip" only spares numpy a buffer for the case of an error.
            np.take(self._held[name], places, axis=0, out=target, mode="clip")


def merged_runs(first: IntArray, stop: IntArray) -> IntArray:
    """The union of spans [first, stop) as runs that do not touch, shape (n_runs, 2), ascending."""
    order = np.argsort(first, kind="stable")
    starts, reach = first[order], np.maximum.accumulate(stop[order])
    begins = np.flatnonzero(np.append(True, starts[1:] > reach[:-1]))
    ends = np.append(begins[1:], len(starts)) - 1
    return np.stack([starts[begins], reach[ends]], axis=1)


def _read(embedding: Embedding, start: int, stop: int, out: FloatArray) -> None:
    """Copy table rows [start, stop) to `out`, chunk by chunk, so that no more than a chunk is ever in between."""
    at = start
    while at < stop:
        upto = min((at // embedding.chunk_rows + 1) * embedding.chunk_rows, stop)
        embedding.read_into(at, upto, out[at - start : upto - start])
        at = upto
