"""What an import reads from: named vectors, any of which can be read at any time, in blocks that fit in memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from featurestore.errors import ShapeError, StoreError
from featurestore.tokenprojection import TokenProjection

from .keys import IntArray
from .origin import Origin

NumberArray = npt.NDArray[np.floating | np.integer]

BLOCK_BYTES: Final = 16 << 20
"""About what is read or written at once, so that memory stays flat however long a file is."""


def block_rows(row_shape: Sequence[int], itemsize: int) -> int:
    """Rows that make about a block, at least one."""
    return max(1, BLOCK_BYTES // max(1, prod(row_shape) * itemsize))


class VectorSource(ABC):
    """The vectors of a file that is open.

    Attributes
    ----------
    path
        The file.
    format
        What it was recognised as.
    layout
        Of HDF5: flat, video or image.
    names
        What every entry is called, ``video/frame.jpg`` where it is a frame.
    origin
        The encoder that the file says its vectors are from.
    reasons
        Name -> why that frame has no vector, where the file says so.
    projection
        What the vectors, which are tokens then, went through, where the file has it.
    """

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        *,
        format: str,  # noqa: A002 - the field's word
        layout: str | None = None,
        origin: Origin | None = None,
        reasons: Mapping[str, str] | None = None,
        projection: TokenProjection | None = None,
    ) -> None:
        self.path = path
        self.names = names
        self.format = format
        self.layout = layout
        self.origin = origin
        self.reasons: Mapping[str, str] = reasons or {}
        self.projection = projection

    @abstractmethod
    def read(self, entries: IntArray) -> NumberArray:
        """Vectors of some entries, shape (len(entries), *row_shape), in the file's own dtype.

        Raises
        ------
        ShapeError
            If one of them has another shape than those before.
        StoreError
            If the file is damaged there, or holds no numbers.
        """


class EntrySource(VectorSource):
    """A source that reads its entries one by one."""

    _row_shape: tuple[int, ...] | None = None

    @abstractmethod
    def vector(self, entry: int) -> npt.NDArray[np.generic]:
        """One vector, of whatever shape and dtype; StoreError if it cannot be read."""

    def read(self, entries: IntArray) -> NumberArray:
        """As of `VectorSource`."""
        vectors = [self._checked(int(entry)) for entry in entries]
        return np.stack(vectors)

    def _checked(self, entry: int) -> NumberArray:
        vector = self.vector(entry)
        self._row_shape = self._row_shape or vector.shape
        check_vector(vector.shape, vector.dtype, like=self._row_shape, name=self.names[entry], path=self.path)
        return vector  # type: ignore[return-value] # its dtype was checked


def check_vector(
    shape: tuple[int, ...], dtype: np.dtype[np.generic], *, like: tuple[int, ...], name: str, path: Path
) -> None:
    """Refuse a vector that holds no numbers, or has another shape than the others.

    Raises
    ------
    StoreError
        If its dtype is neither floating nor integer.
    ShapeError
        If it is a single number, of three dimensions or more, or not of shape `like`.
    """
    if dtype.kind not in "fiu":
        raise StoreError(
            f"An import's vectors are plain numbers; {name!r} is of dtype {dtype} (file: {path}). "
            "Save it as an array of float32."
        )
    if len(shape) not in (1, 2) or min(shape) < 1:
        raise ShapeError(
            f"An import's vectors have shape (dim,) or (n_tokens, dim), each at least 1; {name!r} has {shape} "
            f"(file: {path}). Mend that entry."
        )
    if shape != like:
        raise ShapeError(
            f"The vectors of an import have one shape, here {like}; {name!r} has {shape} (file: {path}). "
            "Mend that entry."
        )


class SlicedRows:
    """Rows of a long array in a file, taken in any order; a slice of about a block is in memory at a time.

    Neither HDF5 nor Parquet is quick at single rows, and both decode whole chunks of them anyway.

    Parameters
    ----------
    read
        Rows [start, stop).
    n_rows
        How many there are.
    slice_rows
        How many are read at once.
    """

    def __init__(self, read: Callable[[int, int], NumberArray], n_rows: int, slice_rows: int) -> None:
        self._read = read
        self._n_rows = n_rows
        self._slice_rows = slice_rows
        self._kept: tuple[int, NumberArray] | None = None

    def take(self, rows: IntArray) -> NumberArray:
        """`rows`, at least one of them, shape (len(rows), *row_shape)."""
        number_of, within = np.divmod(rows, self._slice_rows)
        numbers = np.unique(number_of).tolist()
        if self._kept is not None and self._kept[0] in numbers:
            # The slice at hand first: the next block usually begins where the last one ended.
            numbers.remove(self._kept[0])
            numbers.insert(0, self._kept[0])
        taken: NumberArray | None = None
        for number in numbers:
            part = self._slice(number)
            taken = np.empty((len(rows), *part.shape[1:]), part.dtype) if taken is None else taken
            mine = number_of == number
            taken[mine] = part[within[mine]]
        if taken is None:
            raise ValueError("at least one row is taken")
        return taken

    def _slice(self, number: int) -> NumberArray:
        if self._kept is None or self._kept[0] != number:
            start = number * self._slice_rows
            self._kept = number, self._read(start, min(start + self._slice_rows, self._n_rows))
        return self._kept[1]


@contextmanager
def damage_named(path: Path, what: str, kinds: tuple[type[BaseException], ...]) -> Iterator[None]:
    """Turn what a library raises over a damaged file into a StoreError that names the file.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, as it reads in a sentence: ``"an HDF5 file"``.
    kinds
        What the library raises.
    """
    try:
        yield
    except kinds as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise StoreError(
            f"An import reads {what} to its end; this one is damaged or cut short: {reason} (file: {path}). "
            "Copy it again from where it came, or make it anew."
        ) from error
