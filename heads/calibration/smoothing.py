"""Smoothing over the rows of a video: a weighted mean of each row and its neighbours.

Rows are not frames: only a fifth of s-Aff-Wild2's neighbouring rows are neighbouring frames. ``"box"`` counts rows, as
AIM3 does; ``"gaussian"`` and ``"exp"`` weigh by the distance in true frame numbers, as HSEmotion does (config.py has
the published numbers). Means stay where values were: probabilities still sum to 1, valence stays in [-1, 1].

One shift of the whole table per offset, so a video's result does not depend on the others, not even in its last bit,
which running sums over all rows would not give.
"""

from dataclasses import dataclass

import numpy as np

from featurestore.errors import ConfigError, ShapeError, unknown_name
from heads.arrays import BoolArray, Float64Array, IntArray

from .config import SMOOTHINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """How one task is smoothed.

    Attributes
    ----------
    kind
        ``"box"``, ``"gaussian"`` or ``"exp"``.
    width
        Above 0. Box: rows to either side that weigh as much as the row itself. Gaussian: w of exp(-d^2 / (2 w^2)).
        Exp: sigma of exp(-d^2 / sigma). d is the difference of frame numbers.
    clip_rows
        Beyond so many rows to either side gaussian and exp weigh nothing; a box has its own width.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    ConfigError
        If a number is out of range.
    """

    kind: str
    width: float
    clip_rows: int

    def __post_init__(self) -> None:
        kinds = [name for name in SMOOTHINGS if name != "none"]
        if self.kind not in kinds:
            raise unknown_name("smoothing", self.kind, kinds)
        if not (np.isfinite(self.width) and self.width > 0 and self.clip_rows >= 1):
            raise ConfigError(
                f"Smoothing needs a width above 0 and at least 1 row to either side, got {self.width} and "
                f"{self.clip_rows}. Leave the task out to smooth nothing."
            )

    @property
    def reach(self) -> int:
        """Rows to either side that can weigh something."""
        return int(self.width) if self.kind == "box" else self.clip_rows

    def apply(self, values: Float64Array, *, rows: IntArray, video: IntArray, frames: IntArray) -> Float64Array:
        """Smooth within videos.

        Parameters
        ----------
        values : shape (n,) or (n, k), in [-1, 1]
            One task's predictions. A row that holds NaN weighs nothing in its neighbours, and stays as it is.
        rows : shape (n,), ascending
            Row numbers in the frame table: what a distance in rows is counted by.
        video : shape (n,)
            Nothing is taken from a row of another number.
        frames : shape (n,)
            The source's frame numbers.

        Returns
        -------
        shape of `values`, float64

        Raises
        ------
        ShapeError
            If the rows do not ascend.
        """
        if (np.diff(rows) <= 0).any():
            raise ShapeError("Rows must ascend to be smoothed, each once. Sort the predictions by row.")
        table = np.ascontiguousarray(values.reshape(len(values), -1).T, dtype=np.float64)  # (k, n)
        known: BoolArray = np.asarray(~np.isnan(table).any(axis=0))
        filled: Float64Array = np.where(known, table, 0.0)
        sums, totals = filled.copy(), known.astype(np.float64)
        for offset in range(1, min(self.reach, len(rows) - 1) + 1):
            near = (video[offset:] == video[:-offset]) & (rows[offset:] - rows[:-offset] <= self.reach)
            if not near.any():
                break
            weight = near * self._weights(frames[offset:] - frames[:-offset])  # (n - offset,)
            sums[:, :-offset] += weight * filled[:, offset:]
            sums[:, offset:] += weight * filled[:, :-offset]
            totals[:-offset] += weight * known[offset:]
            totals[offset:] += weight * known[:-offset]
        # A mean of ones may come out a last bit above 1, which a probability must not.
        means = np.clip(sums / np.where(known, totals, 1.0), -1.0, 1.0)
        smoothed = np.where(known, means, table)
        return np.ascontiguousarray(smoothed.T).reshape(values.shape)

    def _weights(self, distances: IntArray) -> Float64Array:
        match self.kind:
            case "box":
                return np.ones(len(distances))
            case "gaussian":
                return np.exp(-(distances.astype(np.float64) ** 2) / (2 * self.width**2))
            case _:
                return np.exp(-(distances.astype(np.float64) ** 2) / self.width)
