"""An exported graph against the run it was made of: the same rows through onnxruntime and through `Run.predict`."""

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from featurestore.errors import ConfigError, PrecisionError
from featurestore.frames import FRAME_SCHEMA, FrameTable
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet
from heads.features.loaded import LoadedEmbeddings
from heads.light.config import LightConfig
from heads.runs.run import Run
from heads.scoring.predictions import Predictions

if TYPE_CHECKING:
    import onnxruntime as ort

TOLERANCE: Final = 1e-4
"""How far a probability or value may be from the run's."""
_MISSING_ROW: Final = 2  # of the longer video: one frame without an embedding
_MOST_WINDOWS: Final = 5
_ERRORS_ONLY: Final = 3


def open_session(content: bytes) -> "ort.InferenceSession":
    """A model's bytes as onnxruntime runs them on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def verify(content: bytes, run: Run, *, raw: bool) -> float:
    """Compare on two made-up videos, one of several windows and one that is shorter than a window.

    Parameters
    ----------
    content
        The model's bytes.
    run, raw
        What it was made of.

    Returns
    -------
    The largest difference of a probability or value.

    Raises
    ------
    PrecisionError
        If it is above `TOLERANCE`, or a class, a unit or a missing row differs.
    """
    features = _made_up(run)
    expected = run.predict(features, split="test", raw=raw)
    session = open_session(content)
    worst = 0.0
    for start, stop in features.frames.segments("test").tolist():
        rows = np.arange(start, stop)
        given: dict[str, NDArray[np.generic]] = {"frame": features.frame_numbers[rows]}
        given |= {name: _embedding(features, name, rows) for name in run.head.encoders}
        names = [each.name for each in session.get_outputs()]
        found = dict(zip(names, session.run(names, given), strict=True))
        there = np.isin(expected.rows, rows)
        worst = max(worst, difference(expected.where(there), found))
    if not worst <= TOLERANCE:
        raise PrecisionError(
            f"The exported graph is to give what run {run.name!r} gives, to {TOLERANCE:g}, but differs by {worst:.3g} "
            "on made-up videos. Nothing was written. Report it with the run's config.json."
        )
    return worst


def difference(expected: Predictions, found: dict[str, NDArray[np.generic]]) -> float:
    """How far a graph's outputs are from predictions of the same rows.

    Returns
    -------
    The largest difference of a value or probability; infinity if a missing row, a class or a unit differs that was no
    tie.
    """
    worst = 0.0
    pairs = {
        "valence": expected.valence,
        "arousal": expected.arousal,
        "expression_probabilities": expected.expression,
        "action_unit_probabilities": expected.action_units,
    }
    for name, wanted in pairs.items():
        if wanted is None:
            continue
        got = found[name].astype(np.float64)
        if got.shape != wanted.shape or (np.isnan(got) != np.isnan(wanted)).any():
            return float("inf")
        worst = max(worst, float(np.nanmax(np.abs(got - wanted), initial=0.0)))
    if expected.expression is not None:
        best = np.sort(np.nan_to_num(expected.expression), axis=1)
        clear = (best[:, -1] - best[:, -2] > TOLERANCE) | np.isnan(expected.expression).any(axis=1)
        if (expected.expression_classes() != found["expression"])[clear].any():
            return float("inf")
    if expected.action_units is not None:
        limits = 0.5 if expected.thresholds is None else expected.thresholds
        clear = ~(np.abs(expected.action_units - limits) <= TOLERANCE)
        if (expected.active_units() != found["action_units"])[clear].any():
            return float("inf")
    return worst


def _made_up(run: Run) -> FeatureSet:
    """Random embeddings of a longer and a shorter video, with gaps between frames and a frame that is missing."""
    seq = 1 if isinstance(run.head, LightConfig) else run.head.seq
    longer = max(8, 2 * seq + 3)
    lengths = {"longer": min(longer, _MOST_WINDOWS * 1000), "shorter": max(1, seq // 2)}
    drawn = np.random.default_rng(0)
    tables = []
    for video, n in lengths.items():
        numbers = np.cumsum(drawn.integers(1, 5, n))
        columns: dict[str, object] = {name: [None] * n for name in FRAME_SCHEMA}
        columns |= {"video": [video] * n, "frame": numbers, "split": ["test"] * n}
        columns["path"] = [f"{video}/{number:05d}.jpg" for number in numbers]
        tables.append(pl.DataFrame(columns, schema=FRAME_SCHEMA))
    frames = FrameTable(pl.concat(tables))
    generator = torch.Generator().manual_seed(0)
    tensors, usable = {}, {}
    for name in run.head.encoders:
        tensors[name] = torch.randn(len(frames), *run.record.shapes[name], generator=generator)
        usable[name] = np.ones(len(frames), dtype=np.bool_)
    missing = run.head.encoders[-1]
    tensors[missing][_MISSING_ROW], usable[missing][_MISSING_ROW] = 0, False
    return FeatureSet(
        frames, LoadedEmbeddings(tensors), usable, dict(run.record.encoders), torch.device("cpu"), "made up"
    )


def _embedding(features: FeatureSet, name: str, rows: IntArray) -> NDArray[np.float32]:
    if not isinstance(features.embeddings, LoadedEmbeddings):
        raise ConfigError("Embeddings in memory were expected.")
    table = features.embeddings[name][torch.from_numpy(rows)].numpy().copy()
    table[~features.usable_rows[name][rows]] = np.nan
    return table
