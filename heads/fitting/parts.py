"""Which rows a fit learns from, and which judge it: the train and val splits, or all folds of train but one."""

from dataclasses import dataclass

import numpy as np

from featurestore.errors import ConfigError
from heads.arrays import IntArray
from heads.features.featureset import FeatureSet
from heads.features.windows import WindowIndex, frame_window_index, window_index
from heads.modules.config import HeadConfig


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Two sets of rows without a video in common.

    Attributes
    ----------
    learned, judged : shape (n_segments, 2), int64
        Segments, [start, stop) rows.
    judge
        What judges, for people: ``"val"``, ``"fold 2 of 6"``.
    """

    learned: IntArray
    judged: IntArray
    judge: str = "val"

    @classmethod
    def of_splits(cls, features: FeatureSet) -> "Parts":
        """Train and val."""
        return cls(features.frames.segments("train"), features.frames.segments("val"))

    @classmethod
    def of_fold(cls, features: FeatureSet, folds: IntArray, number: int) -> "Parts":
        """The train split without one fold, which judges.

        Parameters
        ----------
        features
            Of which rows.
        folds : shape (n_frames,), int64
            Fold of every train row, one a video; -1 elsewhere.
        number
            The fold, from 0.

        Raises
        ------
        ConfigError
            If the fold is empty, or is all there is.
        """
        segments = features.frames.segments("train")
        fold = folds[segments[:, 0]] if len(segments) else np.empty(0, dtype=np.int64)
        n_folds = int(fold.max(initial=0)) + 1
        if not (fold == number).any() or (fold == number).all():
            raise ConfigError(
                f"Fold {number + 1} of {n_folds} leaves nothing to learn from or nothing to judge by: the train split "
                f"has {len(segments)} runs of rows (store: {features.source}). Ask for fewer folds."
            )
        return cls(segments[fold != number], segments[fold == number], f"fold {number + 1} of {n_folds}")

    @property
    def judged_rows(self) -> IntArray:
        """The rows that judge, ascending."""
        return segment_rows(self.judged)


def segment_rows(segments: IntArray) -> IntArray:
    """The rows of segments, in their order, shape (n,)."""
    return np.concatenate([np.arange(start, stop) for start, stop in segments.tolist()] or [np.empty(0, np.int64)])


def head_windows(features: FeatureSet, head: HeadConfig, segments: IntArray) -> WindowIndex:
    """The windows of some segments as the head counts them."""
    if head.span == "frames":
        return frame_window_index(segments, features.frame_numbers, length=head.seq, step=head.step)
    return window_index(segments, length=head.seq, step=head.step)
