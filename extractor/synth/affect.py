"""Labels out of the state of a face: action units, expression, valence and arousal.

An expression is what the units look like now, with hysteresis. Valence and arousal are what they have been: leaky
averages over the last seconds, squashed, with an offset for each video. One frame alone, however well it is read,
cannot tell them.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from featurestore.labels import ACTION_UNITS, EXPRESSIONS

from .dynamics import FPS
from .layers import FloatArray

AU_THRESHOLD: Final = 0.4
"""Intensity from which a unit is labelled present."""

VIDEO_OFFSET_STD: Final = 0.08
VALENCE_TIME_S: Final = 2.6
AROUSAL_TIME_S: Final = 2.8

_VALENCE: Final = {12: 1.15, 6: 0.35, 25: 0.1, 1: -0.3, 4: -0.75, 7: -0.1, 10: -0.3, 15: -0.9, 23: -0.35, 24: -0.35}
_VALENCE_REST: Final = 0.16
_AROUSAL: Final = {26: 0.85, 25: 0.5, 2: 0.65, 1: 0.3, 4: 0.5, 12: 0.4, 6: 0.25, 7: 0.2, 10: 0.3, 23: 0.4, 15: -0.9}
_AROUSAL_REST: Final = -0.66

# What an expression asks for, and what speaks against it; the former are averaged by their weights.
_FOR: Final[dict[str, dict[int, float]]] = {
    "Anger": {4: 1.0, 7: 0.5, 23: 0.25, 24: 0.25},
    "Disgust": {10: 1.0, 4: 0.8, 7: 0.5},
    "Fear": {1: 0.8, 2: 0.9, 4: 0.8, 25: 0.2},
    "Happiness": {12: 1.0, 6: 0.6},
    "Sadness": {1: 0.9, 4: 0.6, 15: 0.4},
    "Surprise": {1: 0.8, 2: 0.9, 25: 0.3, 26: 0.4},
}
_AGAINST: Final[dict[str, dict[int, float]]] = {
    "Anger": {1: 0.6, 12: 0.6, 10: 0.3, 25: 0.2},
    "Disgust": {12: 0.9, 1: 0.5, 2: 0.4, 26: 0.4},
    "Fear": {12: 0.6},
    "Happiness": {4: 0.4, 15: 0.6, 24: 0.5},
    "Sadness": {2: 0.7, 12: 0.7, 26: 0.3},
    "Surprise": {4: 0.8, 12: 0.4},
}
_ENTER: Final = 0.44
_LEAVE: Final = 0.34
_OVERTAKE: Final = 0.08
# Parted lips alone are talk, not an expression.
_ACTIVITY: Final = {1: 1.0, 2: 1.0, 4: 1.0, 6: 0.8, 7: 0.5, 10: 0.5, 12: 1.0, 15: 1.0, 23: 1.0, 24: 1.0, 26: 0.5}
_BUSY: Final = 1.1
_QUIET: Final = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Affect:
    """The labels of the frames of one video, none missing.

    Attributes
    ----------
    valence, arousal : shape (n_frames,), in [-1, 1]
    expression : shape (n_frames,), int8
    units : shape (n_frames, 12), int8 of 0 and 1
    """

    valence: FloatArray
    arousal: FloatArray
    expression: NDArray[np.int8]
    units: NDArray[np.int8]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The labels of some frames only."""
        return type(self)(
            valence=self.valence[rows],
            arousal=self.arousal[rows],
            expression=self.expression[rows],
            units=self.units[rows],
        )


def label_frames(rng: np.random.Generator, units: FloatArray) -> Affect:
    """Label every source frame of a video.

    Parameters
    ----------
    units : shape (n_frames, 12), in [0, 1]
        Intensities at 30 fps, from the video's first frame on.
    """
    offsets = rng.normal(0, VIDEO_OFFSET_STD, 2)
    valence = _remember(_VALENCE_REST + units @ _weights(_VALENCE), VALENCE_TIME_S)
    arousal = _remember(_AROUSAL_REST + units @ _weights(_AROUSAL), AROUSAL_TIME_S)
    return Affect(
        valence=np.tanh(valence + offsets[0]).astype(np.float32),
        arousal=np.tanh(arousal + offsets[1]).astype(np.float32),
        expression=_recognise(units),
        units=(units >= AU_THRESHOLD).astype(np.int8),
    )


def _weights(by_number: dict[int, float]) -> FloatArray:
    return np.array([by_number.get(number, 0.0) for number in ACTION_UNITS], np.float32)


def _remember(drive: FloatArray, time_s: float) -> FloatArray:
    """Leaky average of the past and the present; before the first frame all was as in it."""
    keep = float(np.exp(-1 / (FPS * time_s)))
    return np.array(list(accumulate(drive.tolist(), lambda old, new: keep * old + (1 - keep) * new)), np.float32)


def _recognise(units: FloatArray) -> NDArray[np.int8]:
    """The class of every frame. It is left only when it no longer fits, or another fits clearly better."""
    names = list(_FOR)
    wanted = np.stack([_weights(_FOR[name]) / sum(_FOR[name].values()) for name in names], 1)
    unwanted = np.stack([_weights(_AGAINST[name]) for name in names], 1) * 0.5
    scores = (units @ (wanted - unwanted)).tolist()  # (n_frames, 6)
    activity = (units @ _weights(_ACTIVITY)).tolist()
    neutral, other = EXPRESSIONS.index("Neutral"), EXPRESSIONS.index("Other")
    classes = [EXPRESSIONS.index(name) for name in names]
    out = np.empty(len(units), np.int8)
    current = neutral
    for frame, (fits, busy) in enumerate(zip(scores, activity, strict=True)):
        best = max(range(len(names)), key=fits.__getitem__)
        held = fits[classes.index(current)] if current in classes else None
        if held is not None and held >= _LEAVE and fits[best] < held + _OVERTAKE:
            out[frame] = current
            continue
        if fits[best] >= _ENTER:
            current = classes[best]
        elif current != neutral:
            current = neutral if busy < _QUIET else other
        elif busy >= _BUSY:
            current = other
        out[frame] = current
    return out
