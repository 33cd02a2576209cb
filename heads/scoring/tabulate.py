"""Predictions as a table, one row a frame, with the field's column names."""

import numpy as np
import polars as pl

from featurestore.frames import FrameTable
from featurestore.labels import AU_COLUMNS, EXPRESSIONS

from .predictions import Predictions


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
