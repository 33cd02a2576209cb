"""The fold of train that says when to stop: whole videos, drawn once from a seed."""

import numpy as np

from featurestore.errors import ShapeError
from heads.arrays import BoolArray, IntArray


def hold_out(groups: IntArray, share: float, *, seed: int) -> BoolArray:
    """Which rows are held out: about a share of them, in whole groups, at least one group and never all.

    Parameters
    ----------
    groups : shape (n,), int64
        Each row's group; rows of one video are no strangers to each other, so a video is a group.
    share
        Of the rows, in (0, 1).
    seed
        Of the order in which groups are drawn; equal groups give an equal fold.

    Raises
    ------
    ShapeError
        If there are fewer than two groups.
    """
    numbers, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(numbers) < 2:
        raise ShapeError(
            f"Early stopping holds out whole groups of rows (videos), and needs two of them; got {len(numbers)} with "
            f"n_samples={len(groups)}. Give more videos, or early_stopping_rounds=0, which holds none out."
        )
    order = np.random.default_rng(seed).permutation(len(numbers))
    taken = np.cumsum(sizes[order])
    # As many as come nearest to the share.
    n_taken = int(np.abs(taken[:-1] - share * len(groups)).argmin()) + 1
    held: BoolArray = np.isin(which, order[:n_taken])
    return held
