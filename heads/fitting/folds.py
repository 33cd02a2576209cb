"""The train split cut into folds of whole clips, each a video or two people's videos (see `clip_ids`).

A frame table that names
folds (its column `fold`) is followed where as many are asked for as it names, so that a head's folds can be those that
its encoders were fine-tuned on.
"""

import numpy as np

from featurestore.errors import ConfigError
from featurestore.frames import FrameTable
from heads.arrays import IntArray
from heads.features.clips import clip_ids


def video_folds(frames: FrameTable, n_folds: int, *, seed: int = 0) -> IntArray:
    """A fold for every train row.

    Parameters
    ----------
    frames
        The frame table; its own folds are taken if there are `n_folds` of them over all train rows.
    n_folds
        K, at least 2.
    seed
        Of which videos go together. Every seed gives folds of about as many rows: videos are dealt out by size.

    Returns
    -------
    shape (n_frames,), int64
        In 0 .. K - 1, the same for all rows of a clip; -1 outside the train split.

    Raises
    ------
    ConfigError
        If K is below 2, or there are fewer clips than folds.
    """
    if n_folds < 2:
        raise ConfigError(f"folds must be at least 2, got {n_folds}.")
    folds = np.full(len(frames), -1, dtype=np.int64)
    rows = frames.rows("train")
    own = frames.data["fold"].gather(rows)
    if len(rows) and not own.null_count() and own.n_unique() == n_folds:
        folds[rows] = np.unique(own.to_numpy(), return_inverse=True)[1]
        return folds
    clips, clip, sizes = np.unique(clip_ids(frames)[rows], return_inverse=True, return_counts=True)
    if len(clips) < n_folds:
        raise ConfigError(
            f"{n_folds} folds of whole clips were asked for, but the train split has {len(clips)}. Ask for fewer."
        )
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(clips))
    by_size = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of_clip = np.empty(len(clips), dtype=np.int64)
    # One clip of each size class to every fold, in an order drawn anew for each class.
    for start in range(0, len(clips), n_folds):
        dealt = by_size[start : start + n_folds]
        fold_of_clip[dealt] = rng.permutation(n_folds)[: len(dealt)]
    folds[rows] = fold_of_clip[clip]
    return folds
