"""Folds of videos for the predictions in hand."""

import numpy as np

from featurestore.errors import ConfigError
from heads.arrays import IntArray


def balanced_folds(video: IntArray, n_folds: int, *, seed: int) -> IntArray:
    """A fold for every row, whole videos in one, folds of about as many rows.

    The largest video goes to the smallest fold, and so on; the seed decides between equals. Five of
    s-Aff-Wild2's fifty val videos hold two fifths of its rows, so dealing them out at random would not do.

    Parameters
    ----------
    video : shape (n,)
        A number a video.
    n_folds
        At most; as many as there are videos, if these are fewer.
    seed
        Of the order among videos of the same length.

    Returns
    -------
    shape (n,), int64, in 0 .. n_folds - 1, each of them there

    Raises
    ------
    ConfigError
        If there are fewer than two videos.
    """
    names, index, sizes = np.unique(video, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ConfigError(
            "Post-processing is judged on videos that it was not fitted on, but there are predictions of "
            f"{len(names)}. Give those of at least two videos."
        )
    shuffled = np.random.default_rng(seed).permutation(len(names))
    loads = np.zeros(min(n_folds, len(names)), dtype=np.int64)
    fold_of = np.empty(len(names), dtype=np.int64)
    for number in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[number] = loads.argmin()
        loads[fold_of[number]] += sizes[number]
    return fold_of[index]
