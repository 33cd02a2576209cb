"""Thresholds of action units: the best of a grid for each, from counts.

A probability falls between two neighbours of the grid; counting these cells by label gives true and false positives
at every threshold at once, and counts of folds add up.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from heads.arrays import BoolArray, Float64Array, IntArray
from heads.scoring.metrics import f1_from_counts
from heads.scoring.predictions import AU_THRESHOLD

_N_COUNTS: Final = 3


def threshold_counts(
    probabilities: Float64Array,
    targets: BoolArray,
    valid: BoolArray,
    fold: IntArray,
    *,
    grid: Sequence[float],
    n_folds: int,
) -> Float64Array:
    """True positives, false positives and false negatives at every threshold of a grid.

    Parameters
    ----------
    probabilities : shape (n, n_units)
        Without NaN.
    targets, valid : shape (n, n_units)
        Whether a unit is active, and whether that is known.
    fold : shape (n,)
    grid
        Ascending.
    n_folds
        How many folds there are.

    Returns
    -------
    shape (n_folds, n_units, 3, n_grid)
    """
    n_units, n_cells = probabilities.shape[1], len(grid) + 1
    counts = np.empty((n_folds, n_units, _N_COUNTS, len(grid)))
    for unit in range(n_units):
        where = valid[:, unit]
        # Cell k: above k thresholds of the grid; "above" is strict, as in `Predictions.active_units`.
        cell = np.searchsorted(np.asarray(grid), probabilities[where, unit], side="left")
        index = (fold[where] * 2 + targets[where, unit]) * n_cells + cell
        table = np.bincount(index, minlength=n_folds * 2 * n_cells).reshape(n_folds, 2, n_cells)
        above = table[..., ::-1].cumsum(axis=-1)[..., ::-1]  # (n_folds, 2, n_cells): in cell k or higher
        positives = above[..., 1:]  # above threshold k: in cell k + 1 or higher
        counts[:, unit, 0], counts[:, unit, 1] = positives[:, 1], positives[:, 0]
        counts[:, unit, 2] = above[:, 1, :1] - positives[:, 1]
    return counts


def best_thresholds(counts: Float64Array, grid: Sequence[float]) -> IntArray:
    """The place in the grid with the highest F1 of each unit, (n_units, 3, n_grid) -> (n_units,).

    Of equals the nearest to .5.
    """
    scores = f1_from_counts(counts)  # (n_units, n_grid)
    order = np.argsort(np.abs(np.asarray(grid) - AU_THRESHOLD), kind="stable")
    return np.asarray(order[scores[:, order].argmax(axis=1)], dtype=np.int64)
