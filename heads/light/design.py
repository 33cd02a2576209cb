"""From embeddings to the table that light heads are fitted on: chosen columns, window statistics, normalisation.

All that is fitted here (column means, principal components) is fitted on the rows that are learned from. Embeddings are
read in blocks, loaded or streamed; what must fit in memory is the table itself, float32, of the rows asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurestore.bytesize import format_bytes
from featurestore.errors import ConfigError
from heads.arrays import BoolArray, Float64Array, IntArray
from heads.features.featureset import FeatureSet
from heads.features.placement import host_free_bytes
from heads.fitting.parts import segment_rows
from heads.modules.shapes import Shapes, read_widths

from .config import LightConfig
from .numbers import Array
from .statistics import STATISTICS, window_statistics

BLOCK_ROWS: Final = 8192
"""Rows that are read or transformed at once; bounds memory, not the result."""

Table = NDArray[np.float32]


class DesignRows(NamedTuple):
    """Rows as a light head reads them.

    Attributes
    ----------
    rows : shape (n,), int64
        Their numbers in the frame table.
    X : shape (n, n_columns), float32
    usable : shape (n,), bool
        Rows that every encoder has embedded; the others hold numbers without a meaning.
    """

    rows: IntArray
    X: Table
    usable: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """How embeddings become inputs; it has to be the same when fitting and when predicting.

    Of a row's chosen columns x, side by side in the encoders' order, inputs are (x - mean) / scale; with half widths
    of windows, x is first followed by the statistics of ``components @ x - offset`` over each window
    (see `window_statistics`).

    Attributes
    ----------
    config
        Which encoders, columns and half widths.
    n_read
        Columns that are read, D.
    mean, scale : shape (n_columns,), float64
        0 and 1 where nothing is normalised.
    components : shape (k, D), float64
        None if the statistics are of the columns themselves, or there are none.
    offset : shape (k,), float64
    """

    config: LightConfig
    n_read: int
    mean: Float64Array
    scale: Float64Array
    components: Float64Array | None = None
    offset: Float64Array | None = None

    @classmethod
    def plain(cls, config: LightConfig, shapes: Shapes) -> "Design":
        """A design of which nothing is fitted yet.

        Raises
        ------
        ConfigError
            If an encoder holds tokens, or has no such columns.
        """
        n_read = sum(read_widths(config.inputs(), shapes).values())
        n_columns = n_read + len(STATISTICS) * len(config.statistics) * min(n_read, config.components)
        return cls(config=config, n_read=n_read, mean=np.zeros(n_columns), scale=np.ones(n_columns))

    @property
    def n_columns(self) -> int:
        """Columns of X."""
        return len(self.mean)

    def fitted(self, features: FeatureSet, segments: IntArray) -> tuple["Design", DesignRows]:
        """The design fitted on some segments, and these as it transforms them."""
        table = self._read(features, segments)
        design = self._with_components(table)
        design._add_statistics(table, segments)
        if self.config.normalise and self.config.estimator != "lightgbm":
            mean, deviation = _moments(table.X, table.usable)
            design = replace(design, mean=mean, scale=np.where(deviation > 0, deviation, 1))
        design._normalise(table.X)
        return design, table

    def transform(self, features: FeatureSet, segments: IntArray) -> DesignRows:
        """The rows of some segments as inputs."""
        table = self._read(features, segments)
        self._add_statistics(table, segments)
        self._normalise(table.X)
        return table

    def arrays(self) -> dict[str, Float64Array]:
        """What was fitted, by name."""
        named = {"mean": self.mean, "scale": self.scale, "components": self.components, "offset": self.offset}
        return {name: array for name, array in named.items() if array is not None}

    def with_arrays(self, arrays: Mapping[str, Array]) -> "Design":
        """The same with what `arrays` gave; KeyError if one is missing."""
        values = {name: array.astype(np.float64) for name, array in arrays.items()}
        return replace(
            self,
            mean=values["mean"],
            scale=values["scale"],
            components=values.get("components"),
            offset=values.get("offset"),
        )

    def _read(self, features: FeatureSet, segments: IntArray) -> DesignRows:
        """The columns that are read, in the first columns of X; the others are not filled."""
        rows = segment_rows(segments)
        self._check_room(len(rows), features.source)
        X = np.empty((len(rows), self.n_columns), dtype=np.float32)
        for start, block in self._blocks(features, rows):
            X[start : start + len(block), : self.n_read] = block
        return DesignRows(rows, X, features.usable(self.config.encoders)[rows])

    def _blocks(self, features: FeatureSet, rows: IntArray) -> Iterator[tuple[int, Table]]:
        start = 0
        chosen = [slice(*self.config.columns.get(name, (0, None))) for name in self.config.encoders]
        reader = features.windows(self.config.encoders, rows[:, None], batch_windows=BLOCK_ROWS)
        for batch in reader.in_order():
            pieces = [
                vectors[:, 0, columns].float().cpu().numpy()
                for vectors, columns in zip(batch.inputs, chosen, strict=True)
            ]
            yield start, np.concatenate(pieces, axis=1)
            start += len(batch.rows)

    def _check_room(self, n_rows: int, source: str) -> None:
        needed, free = 4 * n_rows * self.n_columns, host_free_bytes()
        if needed > free:
            raise ConfigError(
                f"A light head reads its rows as one table in memory: {n_rows:,} rows of {self.n_columns:,} columns "
                f"take {format_bytes(needed)}, and {format_bytes(free)} are free (store: {source}). Fuse fewer "
                "encoders, choose some of their columns, or take fewer components for the window statistics."
            )

    def _with_components(self, table: DesignRows) -> "Design":
        if not self.config.statistics or self.n_read <= self.config.components:
            return self
        components, offset = _principal_components(table.X[:, : self.n_read], table.usable, self.config.components)
        return replace(self, components=components, offset=offset)

    def _add_statistics(self, table: DesignRows, segments: IntArray) -> None:
        if not self.config.statistics:
            return
        start = 0
        for length in (segments[:, 1] - segments[:, 0]).tolist():
            here = slice(start, start + length)
            values = table.X[here, : self.n_read].astype(np.float64)
            if self.components is not None and self.offset is not None:
                values = values @ self.components.T - self.offset
            table.X[here, self.n_read :] = window_statistics(values, table.usable[here], self.config.statistics)
            start += length

    def _normalise(self, X: Table) -> None:
        if not self.mean.any() and (self.scale == 1).all():
            return
        for start in range(0, len(X), BLOCK_ROWS):
            X[start : start + BLOCK_ROWS] = (X[start : start + BLOCK_ROWS] - self.mean) / self.scale


def _moments(X: Table, usable: BoolArray) -> tuple[Float64Array, Float64Array]:
    """Mean and standard deviation of each column over the usable rows."""
    n = max(1, int(usable.sum()))
    mean = sum((block.sum(axis=0) for block in _usable_blocks(X, usable)), np.zeros(X.shape[1])) / n
    squares = sum((((block - mean) ** 2).sum(axis=0) for block in _usable_blocks(X, usable)), np.zeros(X.shape[1]))
    return mean, np.sqrt(squares / n)


def _principal_components(X: Table, usable: BoolArray, n_components: int) -> tuple[Float64Array, Float64Array]:
    """The first components of the standardised columns, as (components, offset) on the columns as they are."""
    mean, deviation = _moments(X, usable)
    scale = np.where(deviation > 0, deviation, 1)
    # The products in float32, a quarter of the time; over blocks they are added up in float64.
    blocks = (((block - mean) / scale).astype(np.float32) for block in _usable_blocks(X, usable))
    gram = sum(((block.T @ block).astype(np.float64) for block in blocks), np.zeros((X.shape[1], X.shape[1])))
    vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :n_components].T  # (k, D), the greatest eigenvalue first
    # An eigenvector's sign is anybody's choice: its largest entry is positive here.
    largest = np.abs(vectors).argmax(axis=1)
    vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
    components = vectors / scale
    return components, components @ mean


def _usable_blocks(X: Table, usable: BoolArray) -> Iterator[Float64Array]:
    for start in range(0, len(X), BLOCK_ROWS):
        yield X[start : start + BLOCK_ROWS][usable[start : start + BLOCK_ROWS]].astype(np.float64)
