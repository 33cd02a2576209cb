"""What a head says about some frames, one row a frame, overlapping windows already averaged."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.errors import ShapeError
from heads.arrays import BoolArray, Float64Array, IntArray

AU_THRESHOLD: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Predictions for n rows of a frame table; None where a task was not joined.

    Rows whose embedding is missing hold NaN in every array: they have no prediction.

    Attributes
    ----------
    rows : shape (n,), int64
        Row numbers in the frame table, ascending.
    valence, arousal : shape (n,), float64 in [-1, 1]
    expression : shape (n, 8), float64
        Probabilities; they sum to 1.
    action_units : shape (n, 12), float64
        Probability that each is active.
    """

    rows: IntArray
    valence: Float64Array | None = None
    arousal: Float64Array | None = None
    expression: Float64Array | None = None
    action_units: Float64Array | None = None

    def __post_init__(self) -> None:
        for name, array in self._arrays().items():
            if len(array) != len(self.rows):
                raise ShapeError(
                    f"Predictions must have one row a frame, got {len(array)} of {name} for {len(self.rows)} rows."
                )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def joint(self) -> tuple[str, ...]:
        """The tasks that are predicted, in the order au, expr, v, a."""
        return tuple(self._arrays())

    def predicted(self) -> BoolArray:
        """Which rows have a prediction, shape (n,)."""
        known = np.ones(len(self.rows), dtype=np.bool_)
        for array in self._arrays().values():
            known &= ~np.isnan(array.reshape(len(array), -1)).any(axis=1)
        return known

    def where(self, keep: BoolArray) -> "Predictions":
        """Some of the rows, by a mask of shape (n,)."""

        def some(array: Float64Array | None) -> Float64Array | None:
            return None if array is None else array[keep]

        return Predictions(
            rows=self.rows[keep],
            valence=some(self.valence),
            arousal=some(self.arousal),
            expression=some(self.expression),
            action_units=some(self.action_units),
        )

    def expression_classes(self) -> IntArray:
        """The most probable expression of each row; -1 where there is no prediction.

        Raises
        ------
        ShapeError
            If expressions were not predicted.
        """
        probabilities = self.expression
        if probabilities is None:
            raise ShapeError(f"No expression was predicted (joined: {', '.join(self.joint)}). Join 'expr'.")
        known = ~np.isnan(probabilities).any(axis=1)
        return np.where(known, np.nan_to_num(probabilities).argmax(axis=1), -1).astype(np.int64)

    def active_units(self, *, threshold: float = AU_THRESHOLD) -> BoolArray:
        """Which action units are active, shape (n, 12); False where there is no prediction.

        Raises
        ------
        ShapeError
            If action units were not predicted.
        """
        if self.action_units is None:
            raise ShapeError(f"No action unit was predicted (joined: {', '.join(self.joint)}). Join 'au'.")
        return np.nan_to_num(self.action_units) > threshold

    def _arrays(self) -> dict[str, Float64Array]:
        every = {"au": self.action_units, "expr": self.expression, "v": self.valence, "a": self.arousal}
        return {task: array for task, array in every.items() if array is not None}
