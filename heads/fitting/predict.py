"""Predicting rows, overlapping windows averaged.

Where windows overlap (W < S) a row is predicted several times, each time with another past. The values of valence
and arousal and the probabilities of expressions and action units are averaged; the published code keeps an
arbitrary one of them.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Final

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import ConfigError
from heads.arrays import Float64Array, IntArray
from heads.features.batches import Batch
from heads.features.featureset import FeatureSet
from heads.features.windows import WindowIndex
from heads.modules.model import HeadModel
from heads.scoring.predictions import Predictions
from heads.tasks import TASKS

from .context import WindowContext
from .parts import head_windows, segment_rows

BATCH_FRAMES: Final = 8192
"""Rows predicted at once, or patch tokens; bounds memory, not the result."""


def predict(
    model: HeadModel,
    features: FeatureSet,
    *,
    split: str = "val",
    segments: IntArray | None = None,
    batch_frames: int = BATCH_FRAMES,
) -> Predictions:
    """Predict every row of a split, or of some segments.

    Parameters
    ----------
    model
        On the device of the features; its mode is put back afterwards.
    features
        With all encoders of the head.
    split
        ``"train"``, ``"val"`` or ``"test"``.
    segments : shape (n_segments, 2), int64
        [start, stop) rows to predict in place of a split's, ascending.
    batch_frames
        Rows predicted at once.

    Returns
    -------
    Predictions
        One row for each of the split's, NaN where an encoder has no embedding.

    Raises
    ------
    ConfigError
        If there are no rows.
    """
    head = model.config
    wanted = features.frames.segments(split) if segments is None else segments
    rows = segment_rows(wanted)
    if not len(rows):
        raise ConfigError(f"There is nothing to predict: the frame table has no {split!r} rows ({features.source}).")
    windows = head_windows(features, head, wanted)
    n_columns = sum(TASKS[task].n_outputs for task in head.joint)
    # On the host: adding in a fixed order in float64 costs nothing here, and on a GPU the order would vary.
    sums = torch.zeros(len(rows), n_columns, dtype=torch.float64)
    counts = torch.zeros(len(rows), 1, dtype=torch.float64)
    # A frame of patch tokens takes the room of as many rows.
    n_vectors = max(prod(shape[:-1]) for shape in features.shapes(head.encoders).values())
    batch_windows = max(1, batch_frames // (windows.length * n_vectors))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch, outputs in _outputs(model, features, windows, batch_windows):
            picked = batch.picked.cpu().numpy()
            mask = windows.mask[picked, : batch.rows.shape[1]]  # (B, S)
            values = score_columns(outputs, head.joint).cpu()[torch.from_numpy(mask)]  # (n_valid, n_columns)
            positions = torch.from_numpy(np.searchsorted(rows, batch.rows.cpu().numpy()[mask]))
            sums.index_add_(0, positions, values.double())
            counts.index_add_(0, positions, torch.ones(len(positions), 1, dtype=torch.float64))
    model.train(was_training)
    averaged = (sums / counts).numpy()  # every row lies in a window, so no count is 0
    averaged[~features.usable(head.encoders)[rows]] = np.nan
    return predictions_of(averaged, rows, head.joint)


def _outputs(
    model: HeadModel, features: FeatureSet, windows: WindowIndex, batch_windows: int
) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    head = model.config
    reader = features.windows(head.encoders, windows.rows, batch_windows=batch_windows, lengths=windows.lengths)
    context = WindowContext(features, head, windows)
    if head.stateful:
        yield from context.in_lanes(model, reader, batch_windows)
        return
    for batch in reader.in_order():
        yield batch, model(batch.inputs, mask=context.mask(batch), gaps=context.gaps(batch))


def score_columns(outputs: dict[str, Tensor], joint: Sequence[str]) -> Tensor:
    """A model's outputs as what may be averaged, tasks side by side in the order of `joint`.

    Parameters
    ----------
    outputs
        Task -> tensor (..., n_outputs), as `HeadModel` gives them.
    joint
        The tasks.

    Returns
    -------
    shape (..., n_columns), float32: probabilities of ``au`` and ``expr``, values of ``v`` and ``a``.
    """
    columns = []
    for task in joint:
        values = outputs[task].float()
        match task:
            case "au":
                columns.append(values.sigmoid())
            case "expr":
                columns.append(values.softmax(dim=-1))
            case _:
                columns.append(values)
    return torch.cat(columns, dim=-1)


def predictions_of(table: Float64Array, rows: IntArray, joint: Sequence[str]) -> Predictions:
    """Predictions out of columns as `score_columns` orders them, shape (n, n_columns), one row each of `rows`."""
    stops = np.cumsum([TASKS[task].n_outputs for task in joint])
    pieces = dict(zip(joint, np.split(table, stops[:-1], axis=1), strict=True))
    return Predictions(
        rows=rows,
        valence=pieces["v"][:, 0] if "v" in pieces else None,
        arousal=pieces["a"][:, 0] if "a" in pieces else None,
        expression=pieces.get("expr"),
        action_units=pieces.get("au"),
    )
