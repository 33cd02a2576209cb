"""Labels as arrays with masks: nulls become ``valid = False``, and no sentinel is left.

Where a label is null the array holds 0, a value that nothing may read: every loss and every metric takes the
mask beside the target.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash
from numpy.typing import NDArray

from featurestore.errors import ShapeError
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS, LABEL_COLUMNS
from heads.arrays import BoolArray, IntArray
from heads.tasks import task_named

TargetArray = NDArray[np.float32] | NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The labels of n frames.

    Attributes
    ----------
    valence, arousal : shape (n,), float32 in [-1, 1]
    expression : shape (n,), int64 in 0..7
    action_units : shape (n, 12), float32, 0 or 1
    valid_valence, valid_arousal, valid_expression : shape (n,), bool
    valid_action_units : shape (n, 12), bool
    """

    valence: NDArray[np.float32]
    arousal: NDArray[np.float32]
    expression: IntArray
    action_units: NDArray[np.float32]
    valid_valence: BoolArray
    valid_arousal: BoolArray
    valid_expression: BoolArray
    valid_action_units: BoolArray

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in self.__dataclass_fields__}
        if len(set(lengths.values())) > 1:
            raise ShapeError(f"Targets and masks must have one row a frame each, got {lengths}.")

    def __len__(self) -> int:
        return len(self.valence)

    @classmethod
    def from_frames(cls, frames: FrameTable) -> "Targets":
        """The labels of a frame table, in its row order."""
        data = frames.data
        valence, valid_valence = _column(data, "valence")
        arousal, valid_arousal = _column(data, "arousal")
        expression, valid_expression = _column(data, "expression")
        units = [_column(data, name) for name in AU_COLUMNS]
        return cls(
            valence=valence.astype(np.float32),
            arousal=arousal.astype(np.float32),
            expression=expression.astype(np.int64),
            action_units=np.stack([values for values, _ in units], axis=1).astype(np.float32),
            valid_valence=valid_valence,
            valid_arousal=valid_arousal,
            valid_expression=valid_expression,
            valid_action_units=np.stack([valid for _, valid in units], axis=1),
        )

    def of(self, task: str) -> tuple[TargetArray, BoolArray]:
        """Target and mask of one task: (n,), for action units (n, 12).

        Raises
        ------
        UnknownNameError
            If there is no such task.
        """
        match task_named(task).name:
            case "au":
                return self.action_units, self.valid_action_units
            case "expr":
                return self.expression, self.valid_expression
            case "v":
                return self.valence, self.valid_valence
            case _:
                return self.arousal, self.valid_arousal

    def labelled(self, task: str) -> BoolArray:
        """Which frames carry a label of the task (for action units: of at least one), shape (n,)."""
        valid = self.of(task)[1]
        return np.asarray(valid.any(axis=1)) if valid.ndim == 2 else valid

    def take(self, rows: IntArray) -> "Targets":
        """The labels of some rows, in the order given."""
        return Targets(
            valence=self.valence[rows],
            arousal=self.arousal[rows],
            expression=self.expression[rows],
            action_units=self.action_units[rows],
            valid_valence=self.valid_valence[rows],
            valid_arousal=self.valid_arousal[rows],
            valid_expression=self.valid_expression[rows],
            valid_action_units=self.valid_action_units[rows],
        )


def labels_digest(frames: FrameTable) -> str:
    """The xxh3-128 of every label and of the splits: the frames' own fingerprint leaves both out."""
    digest = xxhash.xxh3_128()
    for name in LABEL_COLUMNS:
        values, valid = _column(frames.data, name)
        digest.update(np.ascontiguousarray(values.astype(np.float32)).tobytes())
        digest.update(valid.tobytes())
    for split in frames.data["split"].to_list():
        digest.update(split.encode() + b"\n")
    return digest.hexdigest()


def _column(data: pl.DataFrame, name: str) -> tuple[NDArray[np.float64], BoolArray]:
    column = data[name]
    # NaN is no label either: a float column written by another tool may hold it in place of null.
    values = column.cast(pl.Float64).fill_nan(None)
    return values.fill_null(0.0).to_numpy().copy(), values.is_not_null().to_numpy().copy()
