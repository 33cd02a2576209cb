"""Predictions as a table, one row a frame, with the field's column names; and back."""

from typing import Final

import numpy as np
import polars as pl

from featurestore.errors import FrameMismatchError, ShapeError
from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS, EXPRESSIONS
from heads.arrays import BoolArray, Float64Array

from .predictions import AU_THRESHOLD, Predictions

_COLUMNS: Final = {
    "au": tuple(f"{name}_p" for name in AU_COLUMNS),
    "expr": tuple(f"expression_{number}" for number in range(len(EXPRESSIONS))),
    "v": ("valence",),
    "a": ("arousal",),
}
_ROUND_THRESHOLDS: Final = np.arange(1, 100) / 100


def prediction_table(frames: FrameTable, predictions: Predictions) -> pl.DataFrame:
    """Predictions beside their frames.

    Columns: ``video``, ``frame``, ``split``; ``valence``, ``arousal`` (Float64); ``expression`` (Int8, the most
    probable class) and its probabilities ``expression_0`` .. ``expression_7``; ``au1`` .. ``au26`` (Int8, 0 or 1)
    and their probabilities ``au1_p`` .. ``au26_p``. Columns of a task that was not joined are left out; where a
    frame has no embedding they are null.

    Parameters
    ----------
    frames
        The table that `predictions.rows` counts in.
    predictions
        Of any of its rows.
    """
    keys = frames.data.select("video", "frame", "split")[predictions.rows]
    known = pl.Series("known", predictions.predicted())
    columns: list[pl.Series] = []
    if predictions.valence is not None:
        columns.append(pl.Series("valence", predictions.valence))
    if predictions.arousal is not None:
        columns.append(pl.Series("arousal", predictions.arousal))
    if predictions.expression is not None:
        columns.append(pl.Series("expression", predictions.expression_classes().astype(np.int8)))
        columns += [
            pl.Series(f"expression_{number}", predictions.expression[:, number]) for number in range(len(EXPRESSIONS))
        ]
    if predictions.action_units is not None:
        active = predictions.active_units().astype(np.int8)
        columns += [pl.Series(name, active[:, number]) for number, name in enumerate(AU_COLUMNS)]
        columns += [
            pl.Series(f"{name}_p", predictions.action_units[:, number]) for number, name in enumerate(AU_COLUMNS)
        ]
    values = pl.DataFrame([*columns, known])
    blanked = values.select(pl.when(pl.col("known")).then(pl.col(each.name)).alias(each.name) for each in columns)
    return keys.hstack(blanked)


def predictions_from_table(frames: FrameTable, table: pl.DataFrame) -> Predictions:
    """The inverse of `prediction_table`, by video and frame: what a run's `predictions.parquet` holds.

    The table holds decisions and probabilities of the action units, and no thresholds: these are taken to be .5 where
    that leads to the decisions, else the hundredth nearest .5 that does, else the highest inactive probability. The
    decisions of its rows are the table's in any case.

    Parameters
    ----------
    frames
        The table that the rows are to count in; all frames of `table` are in it.
    table
        As `prediction_table` makes it. Frames whose columns are null are rows without a prediction.

    Raises
    ------
    FrameMismatchError
        If `frames` lacks a frame of it, or it has one twice.
    ShapeError
        If it holds no task, or decisions that no threshold leads to.
    """
    keys = ["video", "frame"]
    numbered = frames.data.select(keys).with_row_index("row")
    found = table.with_columns(pl.col("frame").cast(pl.Int32)).join(
        numbered, on=keys, how="left", maintain_order="left"
    )
    if unknown := found["row"].null_count():
        video, frame = found.filter(pl.col("row").is_null()).select(keys).row(0)
        raise FrameMismatchError(
            f"Predictions are of frames of the store, but {unknown:,} of {table.height:,} are not in it, such as "
            f"{video}/{frame}. Predict with the store that is there now."
        )
    if found["row"].n_unique() < found.height:
        raise FrameMismatchError("A table of predictions has each frame once, but some are in it twice. Drop those.")
    found = found.sort("row")
    arrays = {
        task: found.select(columns).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for task, columns in _COLUMNS.items()
        if set(columns) <= set(found.columns)
    }
    if not arrays:
        raise ShapeError(f"A table of predictions holds valence, expressions or action units, got {table.columns}.")
    flat = {task: array[:, 0] if array.shape[1] == 1 else array for task, array in arrays.items()}
    predictions = Predictions(rows=found["row"].to_numpy().astype(np.int64)).with_arrays(flat)
    if "au" not in arrays:
        return predictions
    active = found.select((pl.col(name).fill_null(0) > 0) for name in AU_COLUMNS).to_numpy()
    return predictions.with_thresholds(_thresholds(arrays["au"], active))


def _thresholds(probabilities: Float64Array, active: BoolArray) -> Float64Array | None:
    """Thresholds that turn probabilities (n, 12) into decisions (n, 12); None if .5 does for all."""
    highest_off = np.where(active | np.isnan(probabilities), 0.0, probabilities).max(axis=0, initial=0.0)
    lowest_on = np.where(active, probabilities, 1.0).min(axis=0, initial=1.0)
    if (active & (probabilities <= highest_off)).any():
        unit = AU_COLUMNS[int(np.argmax(highest_off - lowest_on))]
        raise ShapeError(
            f"A unit is active above one threshold, but the table's {unit} is 1 and 0 without one between their "
            "probabilities. Write the table with `prediction_table`."
        )
    found = []
    for low, high in zip(highest_off, lowest_on, strict=True):
        fitting = [each for each in _ROUND_THRESHOLDS.tolist() if low <= each < high]
        found.append(min(fitting, key=lambda each: abs(each - AU_THRESHOLD)) if fitting else float(low))
    return None if all(threshold == AU_THRESHOLD for threshold in found) else np.array(found)
