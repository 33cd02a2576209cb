"""Parquet: a row a frame, columns `video`, `frame`, `path` and the vector as a fixed-size array."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from featurestore.errors import ShapeError, StoreError

from .keys import IntArray
from .origin import ORIGIN, Origin
from .outgoing import Outgoing
from .source import NumberArray, SlicedRows, VectorSource, block_rows, check_vector, damage_named

VECTOR: Final = "vector"

_DAMAGE: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)
_WHAT: Final = "a Parquet file"
_NUMBER_BYTES: Final = 4
_KEPT_BYTES: Final = 1 << 30
_PATHS: Final = ("path", "key", "image", "image_location", "name")


class ParquetSource(VectorSource):
    """The vectors of a Parquet file, read a slice at a time.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    StoreError
        If it is damaged, lacks the columns that name the frames, or has not one column of vectors.
    """

    def __init__(self, path: Path) -> None:
        with damage_named(path, _WHAT, _DAMAGE):
            # Not by its name alone, in which polars would expand [ and *.
            self._frame = pl.scan_parquet(path, glob=False)
            schema = dict(self._frame.collect_schema())
            with path.open("rb") as file:
                note = pl.read_parquet_metadata(file).get(ORIGIN)
            names = self._frame.select(_name(schema, path).alias("name")).collect()["name"]
        if n_null := names.null_count():
            raise StoreError(
                f"Every row of a Parquet file names its frame; {n_null} do not (file: {path}). Drop those."
            )
        origin = None if note is None else Origin.from_json(note, path)
        super().__init__(path, names.to_list(), format="parquet", origin=origin)
        self._column, dtype = _vector(schema, path)
        self._rows: SlicedRows | None = None
        self._shape: tuple[int, ...] | None = dtype.shape if isinstance(dtype, pl.Array) else None

    def read(self, entries: IntArray) -> NumberArray:
        """As of `VectorSource`."""
        if self._shape is None:
            first = self._slice(int(entries[0]), int(entries[0]) + 1)
            self._shape = first.shape[1:]
        if self._rows is None:
            n_rows = len(self.names)
            # A slice decodes its whole row group, of which there may be one: what can be kept is decoded once.
            is_kept = n_rows * prod(self._shape) * _NUMBER_BYTES <= _KEPT_BYTES
            self._rows = SlicedRows(self._slice, n_rows, n_rows if is_kept else block_rows(self._shape, _NUMBER_BYTES))
        return self._rows.take(entries)

    def _slice(self, start: int, stop: int) -> NumberArray:
        with damage_named(self.path, _WHAT, _DAMAGE):
            column = self._frame.slice(start, stop - start).select(self._column).collect().to_series()
            if n_null := column.null_count():
                name = self.names[start + int(column.is_null().arg_max() or 0)]
                raise StoreError(
                    f"Every row of a Parquet file has its vector; {n_null} have none, such as {name!r} "
                    f"(file: {self.path}). Drop those rows."
                )
            if isinstance(column.dtype, pl.List):
                column = column.list.to_array(self._common_length(column, start))
            block = column.to_numpy()
        check_vector(block.shape[1:], block.dtype, like=self._shape or block.shape[1:], name=VECTOR, path=self.path)
        return block

    def _common_length(self, column: pl.Series, start: int) -> int:
        """The length of the lists in a column that begins with entry `start`."""
        lengths = column.list.len().to_numpy()
        expected = int(lengths[0]) if self._shape is None else self._shape[0]
        wrong = np.flatnonzero(lengths != expected)
        if len(wrong):
            raise ShapeError(
                f"The vectors of an import have one shape, here {(expected,)}; {self.names[start + int(wrong[0])]!r} "
                f"has {(int(lengths[wrong[0]]),)} (file: {self.path}). Mend that entry."
            )
        return expected


def _name(schema: dict[str, pl.DataType], path: Path) -> pl.Expr:
    """What names a row's frame."""
    if "video" in schema and "frame" in schema:
        return pl.concat_str("video", "frame", separator="/")
    for column in _PATHS:
        if schema.get(column) == pl.String:
            return pl.col(column)
    raise StoreError(
        f"A Parquet file names its frames in the columns video and frame, or path; this one has "
        f"{', '.join(schema)} (file: {path}). Add them."
    )


def _vector(schema: dict[str, pl.DataType], path: Path) -> tuple[str, pl.DataType]:
    """The one column of vectors, and its type."""
    found = [name for name, dtype in schema.items() if isinstance(dtype, pl.Array | pl.List)]
    if VECTOR in found:
        found = [VECTOR]
    if len(found) != 1:
        raise StoreError(
            f"A Parquet file holds its vectors in one column of arrays or lists, {VECTOR!r} if there are several; this "
            f"one has {len(found)} among {', '.join(schema)} (file: {path}). Put the numbers of a frame in one column."
        )
    return found[0], schema[found[0]]


def write_parquet(path: Path, vectors: Outgoing) -> None:
    """Write vectors as Parquet, block by block, a row group each."""
    inner: type[pl.Float16 | pl.Float32] = pl.Float16 if vectors.dtype.itemsize == 2 else pl.Float32
    array = pl.Array(inner, vectors.row_shape)
    schema = pl.Schema({"video": pl.String(), "frame": pl.Int32(), "path": pl.String(), VECTOR: array})

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for rows, block in vectors.blocks():
            listed = rows.tolist()
            yield pl.DataFrame(
                {
                    "video": [vectors.index.videos[row] for row in listed],
                    "frame": [vectors.index.numbers[row] for row in listed],
                    "path": [vectors.index.name(row) for row in listed],
                    VECTOR: pl.Series(VECTOR, block),
                },
                schema=schema,
            )

    # The vectors do not compress.
    register_io_source(frames, schema=schema).sink_parquet(
        path,
        compression="uncompressed",
        statistics=False,
        row_group_size=vectors.rows_at_once,
        metadata={ORIGIN: vectors.origin.to_json()},
    )
