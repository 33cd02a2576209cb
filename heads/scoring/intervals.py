"""Intervals by resampling videos.

Frames of one video are nearly copies of each other, so resampling frames gives an interval some fifteen times
too narrow on s-Aff-Wild2; only videos are independent. Every score here is a function of sums over videos, so a
resample is a vector of counts (how often each video was drawn) and all of them are one matrix product: counts
(n_resamples, n_videos) times per-video sums (n_videos, n_sums).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from heads.arrays import Float64Array, IntArray
from heads.features.targets import Targets
from heads.tasks import PartName

from .metrics import concordance_from_sums, confusion_counts, f1_from_counts
from .predictions import Predictions

N_RESAMPLES: Final = 10_000
LOW_PERCENT: Final = 2.5
HIGH_PERCENT: Final = 97.5
_CHUNK_COUNTS: Final = 4_000_000
"""Counts held at once; 32 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval, [low, high]."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class VideoSums:
    """Sufficient statistics of one part of P, one entry a video.

    Attributes
    ----------
    part
        Which part they are of.
    sums : shape (n_videos, 6) for a CCC, (n_videos, 3, n_classes) for an F1
    """

    part: PartName
    sums: Float64Array

    @property
    def n_telling(self) -> int:
        """How many videos change the score: with labelled rows, and of an F1 with one that is or is taken for active.

        With fewer than two of them resamples say nothing of other videos: there is no interval.
        """
        return int(self.sums.reshape(len(self.sums), -1).any(axis=1).sum())

    def score(self, totals: Float64Array) -> Float64Array:
        """The part's score from summed statistics, shape (..., *sums.shape[1:]) -> (...)."""
        if self.part in ("ccc_valence", "ccc_arousal"):
            return concordance_from_sums(totals)
        return np.asarray(f1_from_counts(totals).mean(axis=-1))


def concordance_video_sums(
    part: PartName, target: Float64Array, prediction: Float64Array, video: IntArray, *, n_videos: int
) -> VideoSums:
    """Sums for a CCC; all arrays (n_valid,), `video` in 0..n_videos - 1."""
    centre = float(target.mean()) if len(target) else 0.0
    x, y = target - centre, prediction - centre
    columns = (np.ones_like(x), x, y, x * x, y * y, x * y)
    sums = [np.bincount(video, weights=column, minlength=n_videos) for column in columns]
    return VideoSums(part, np.stack(sums, axis=1))


def expression_video_sums(
    target: IntArray, prediction: IntArray, video: IntArray, *, n_videos: int, n_classes: int
) -> VideoSums:
    """Confusion counts for the expressions' macro F1; all arrays (n_valid,)."""
    # One table for all videos: class k of video v is class v * n_classes + k.
    offset = video * n_classes
    counts = confusion_counts(target + offset, prediction + offset, n_classes=n_videos * n_classes)
    return VideoSums("f1_expression", counts.reshape(3, n_videos, n_classes).swapaxes(0, 1))


def action_unit_video_sums(targets: Targets, predictions: Predictions, video: IntArray, *, n_videos: int) -> VideoSums:
    """Confusion counts for the action units' F1; targets and predictions of the same n rows."""
    active, valid = predictions.active_units(), targets.valid_action_units
    truth = targets.action_units > 0.5
    per_video = [
        [np.bincount(video, weights=column, minlength=n_videos) for column in table.T]
        for table in (truth & active & valid, ~truth & active & valid, truth & ~active & valid)
    ]
    return VideoSums("f1_au", np.array(per_video).transpose(2, 0, 1))


def bootstrap(parts: list[VideoSums], *, n_videos: int, n_resamples: int, seed: int) -> dict[PartName, Float64Array]:
    """Scores of every part over the same resamples of videos, each shape (n_resamples,).

    Parameters
    ----------
    parts
        Statistics of the parts, over the same videos.
    n_videos
        How many videos there are; as many are drawn each time, with replacement.
    n_resamples, seed
        How many resamples, at least one; from which generator.
    """
    samples = resample(parts, n_videos=n_videos, n_resamples=n_resamples, seed=seed)
    return {each.part: scores for each, scores in zip(parts, samples, strict=True)}


def resample(sums: Sequence[VideoSums], *, n_videos: int, n_resamples: int, seed: int) -> tuple[Float64Array, ...]:
    """Scores of each of some statistics, commonly of several runs, over the same resamples (see `bootstrap`)."""
    rng = np.random.default_rng(seed)
    even = np.full(n_videos, 1 / n_videos)
    chunk = max(1, _CHUNK_COUNTS // n_videos)
    scores: list[list[Float64Array]] = [[] for _ in sums]
    for start in range(0, n_resamples, chunk):
        counts = rng.multinomial(n_videos, even, size=min(chunk, n_resamples - start)).astype(np.float64)
        for each, chunks in zip(sums, scores, strict=True):
            totals = counts @ each.sums.reshape(n_videos, -1)  # (resamples, n_sums)
            chunks.append(each.score(totals.reshape(-1, *each.sums.shape[1:])))
    return tuple(np.concatenate(chunks) for chunks in scores)


def interval(samples: Float64Array) -> Interval:
    """The middle 95 % of bootstrap scores."""
    low, high = np.percentile(samples, (LOW_PERCENT, HIGH_PERCENT))
    return Interval(float(low), float(high))


def within_video_concordance(
    target: Float64Array, prediction: Float64Array, video: IntArray, *, n_videos: int
) -> float:
    """How well one follows the other INSIDE videos; all arrays (n_valid,).

    From target and prediction each video's own mean is taken away; the CCC of what is left,
    2 cov / (var_x + var_y), is averaged over videos, weighted by their valid rows. A video in which either is
    constant counts with 0. A predictor that knows only each video's mean, which reaches a pooled CCC of .62
    for valence on s-Aff-Wild2, scores 0 here.
    """
    sums = concordance_video_sums("ccc_valence", target, prediction, video, n_videos=n_videos).sums
    n = sums[:, 0]
    centred = np.zeros_like(sums)
    safe = np.maximum(n, 1)
    centred[:, 0] = n
    centred[:, 3] = sums[:, 3] - sums[:, 1] ** 2 / safe
    centred[:, 4] = sums[:, 4] - sums[:, 2] ** 2 / safe
    centred[:, 5] = sums[:, 5] - sums[:, 1] * sums[:, 2] / safe
    return float((concordance_from_sums(centred) * n).sum() / max(n.sum(), 1))
