"""Fitted post-processing: `Calibration`, its numbers and what each of them brought.

They are applied in the order in which they were fitted: smoothing of probabilities and values, then the shift of the
expressions' logits and the factor and offset of valence and arousal, then the action units' thresholds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from pydantic import JsonValue

from featurestore.errors import ConfigError
from featurestore.labels import ACTION_UNITS, EXPRESSIONS
from heads.arrays import Float64Array, IntArray
from heads.checking import from_json, to_json
from heads.scoring.predictions import Predictions

from .smoothing import Smoothing

LEAST_PROBABILITY: Final = 1e-12
"""Below it a probability counts as this much, so that a class that a model gave 0 has a logit to shift."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """``scale * value + offset``, cut to [-1, 1]."""

    scale: float
    offset: float

    def apply(self, values: Float64Array) -> Float64Array:
        """Of any shape; NaN stays."""
        return np.clip(self.scale * values + self.offset, -1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was tried.

    Attributes
    ----------
    name
        ``"smoothing"``, ``"class bias"``, ``"rescale"`` or ``"threshold"``.
    of
        The task; of a threshold the action unit, ``"au4"``.
    before, after
        The task's (for a threshold the unit's) score over all folds without and with it, each fold scored with what
        was fitted on the others. That of a smoothing is the score after the step that follows it, if one is asked
        for; that of a following step is the score on values that are smoothed, if smoothing is kept.
    is_kept
        Whether it is part of the calibration.
    """

    name: str
    of: str
    before: float
    after: float
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Post-processing with fitted numbers.

    Attributes
    ----------
    fitted_on
        The split whose labels it was fitted on, and after a comma how: ``"train, out of fold"``, ``"val"``.
    smoothing
        Task -> how; tasks that are not there are not smoothed.
    class_bias
        What is added to each expression's logit (the logarithm of its probability), 8 numbers of mean 0.
    rescale
        ``"v"``, ``"a"`` -> factor and offset.
    thresholds
        Of the 12 action units; None: .5 for each.
    steps
        All that was tried, kept or not.

    Raises
    ------
    ConfigError
        If there are not 8 biases or 12 thresholds.
    """

    fitted_on: str
    smoothing: Mapping[str, Smoothing] = field(default_factory=dict)
    class_bias: tuple[float, ...] | None = None
    rescale: Mapping[str, Affine] = field(default_factory=dict)
    thresholds: tuple[float, ...] | None = None
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        wanted = {
            "class biases": (self.class_bias, len(EXPRESSIONS)),
            "thresholds": (self.thresholds, len(ACTION_UNITS)),
        }
        for what, (numbers, n) in wanted.items():
            if numbers is not None and len(numbers) != n:
                raise ConfigError(f"A calibration has {n} {what}, got {len(numbers)}. Calibrate again.")

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.smoothing or self.class_bias or self.rescale or self.thresholds)

    @property
    def in_sample_on(self) -> str:
        """The split on which a score of calibrated predictions has seen its own labels."""
        return self.fitted_on.partition(",")[0].strip()

    def in_sample(self, split: str) -> bool:
        """Whether a score on a split is to be marked: the numbers were fitted on its labels."""
        return split == self.in_sample_on

    def apply(self, predictions: Predictions, *, video_ids: IntArray, frame_numbers: IntArray) -> Predictions:
        """Post-process predictions; what concerns tasks that they do not hold is passed over.

        Parameters
        ----------
        predictions
            Of some rows of a frame table, ascending; commonly a split. Rows without a prediction stay NaN.
        video_ids : shape (n_frames,), int64
            A number a video, for the whole table. Smoothing stays within equal numbers: where predictions are of
            several splits at once, give the segments' (`FeatureSet.segment_ids`).
        frame_numbers : shape (n_frames,), int64
            The source's, for the whole table.
        """
        arrays = predictions.arrays()
        rows = predictions.rows
        video, frames = video_ids[rows], frame_numbers[rows]
        for task, smoothing in self.smoothing.items():
            if task in arrays:
                arrays[task] = smoothing.apply(arrays[task], rows=rows, video=video, frames=frames)
        if self.class_bias is not None and "expr" in arrays:
            arrays["expr"] = shift_logits(arrays["expr"], np.array(self.class_bias))
        for task, affine in self.rescale.items():
            if task in arrays:
                arrays[task] = affine.apply(arrays[task])
        processed = predictions.with_arrays(arrays)
        if self.thresholds is None or "au" not in arrays:
            return processed
        return processed.with_thresholds(np.array(self.thresholds))

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> "Calibration":
        """The inverse of `to_dict`.

        Raises
        ------
        ConfigError
            If a name is unknown, a type is wrong, or a value is out of range.
        """
        return from_json(cls, values)


def shift_logits(probabilities: Float64Array, bias: Float64Array) -> Float64Array:
    """Probabilities (n, 8) after adding `bias` (8,) to their logarithms; rows sum to 1, NaN stays."""
    weighted = np.maximum(probabilities, LEAST_PROBABILITY) * np.exp(bias)
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))
