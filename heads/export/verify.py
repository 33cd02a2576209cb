"""An exported graph against the run it was made of: the same rows through onnxruntime and through `Run.predict`."""

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import PrecisionError
from heads.scoring.predictions import AU_THRESHOLD, Predictions

from .answers import FRAME
from .drawing import made_up
from .subject import Subject

if TYPE_CHECKING:
    import onnxruntime as ort

TOLERANCE: Final = 1e-4
"""How far a probability or value may be from the run's."""
_ERRORS_ONLY: Final = 3


def open_session(content: bytes) -> "ort.InferenceSession":
    """A model's bytes as onnxruntime runs them on the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def verify(content: bytes, subject: Subject) -> float:
    """Compare on two made-up videos, one of several windows and one that is shorter than a window.

    Parameters
    ----------
    content
        The model's bytes.
    subject
        What it was made of.

    Returns
    -------
    The largest difference of a probability or value.

    Raises
    ------
    PrecisionError
        If it is above `TOLERANCE`, or a class, a unit or a missing row differs.
    """
    features, tensors = made_up(subject)
    expected = subject.predict(features, split="test")
    session = open_session(content)
    names = [each.name for each in session.get_outputs()]
    worst = 0.0
    for start, stop in features.frames.segments("test").tolist():
        rows = np.arange(start, stop)
        given: dict[str, NDArray[np.generic]] = {FRAME: features.frame_numbers[rows]}
        for name, tensor in tensors.items():
            given[name] = tensor[rows].numpy().copy()
            given[name][~features.usable_rows[name][rows]] = np.nan
        found = dict(zip(names, session.run(names, given), strict=True))
        worst = max(worst, difference(expected.where(np.isin(expected.rows, rows)), found))
    if not worst <= TOLERANCE:
        by = f"by {worst:.3g}" if np.isfinite(worst) else "in a class, a unit or a missing row"
        raise PrecisionError(
            f"The exported graph is to give what {subject.name!r} gives, to {TOLERANCE:g}, but differs {by} on "
            "made-up videos. Nothing was written. Report it with the run's config.json."
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
        limits = AU_THRESHOLD if expected.thresholds is None else expected.thresholds
        clear = ~(np.abs(expected.action_units - limits) <= TOLERANCE)
        if (expected.active_units() != found["action_units"])[clear].any():
            return float("inf")
    return worst
