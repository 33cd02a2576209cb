"""A shift of each expression's logit that raises macro F1.

Macro F1 is a step function of the shifts, so it is climbed along one class at a time. For one class all shifts of a
grid are tried at once: a row turns to the class where the shift exceeds its margin, the best other logit less its own,
so the confusion counts at every shift are running sums over rows sorted into cells by margin.
"""

from typing import Final

import numpy as np

from featurestore.labels import EXPRESSIONS
from heads.arrays import Float64Array, IntArray
from heads.scoring.metrics import f1_from_counts

from .calibration import LEAST_PROBABILITY

GRIDS: Final = (np.linspace(-4.0, 4.0, 33), np.linspace(-0.5, 0.5, 21))
"""Shifts that are tried: in quarters first, then by a twentieth about what these found."""
N_SWEEPS: Final = 10
"""Over all classes, at most."""
_N_CLASSES: Final = len(EXPRESSIONS)


def fit_class_bias(probabilities: Float64Array, targets: IntArray) -> Float64Array:
    """The shifts of highest macro F1 that coordinate ascent from 0 finds.

    Parameters
    ----------
    probabilities : shape (n, 8)
        Without NaN.
    targets : shape (n,), int64 in 0..7

    Returns
    -------
    shape (8,), of mean 0: a shift common to all changes nothing.
    """
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY)).T.copy()  # (8, n)
    bias = np.zeros(_N_CLASSES)
    for grid in GRIDS:
        centre = bias.copy()
        for _ in range(N_SWEEPS):
            before = bias.copy()
            for number in range(_N_CLASSES):
                bias[number] = _best_shift(logits, targets, bias, number, grid + centre[number])
            if np.array_equal(bias, before):
                break
    return np.asarray(bias - bias.mean())


def _best_shift(logits: Float64Array, targets: IntArray, bias: Float64Array, number: int, grid: Float64Array) -> float:
    """The shift of one class with the highest macro F1, the others' as they are; of equals the nearest to now's."""
    rival, margin = _rivals(logits, bias, number)
    cell = np.searchsorted(grid, margin, side="left")  # the row is of the class from grid[cell] on
    n_cells = len(grid) + 1
    shape = (_N_CLASSES, _N_CLASSES, n_cells)
    index = (targets * _N_CLASSES + rival) * n_cells + cell
    moved = np.bincount(index, minlength=int(np.prod(shape))).reshape(shape).cumsum(axis=2)  # (8, 8, n_cells)
    # (truth, said, grid): what has not moved says its rival, what has moved says the class.
    confusion, moved = moved[..., -1:] - moved[..., :-1], moved[..., :-1]
    confusion[:, number] += moved.sum(axis=1)
    hits = confusion[range(_N_CLASSES), range(_N_CLASSES)]  # (8, n_grid)
    said, true = confusion.sum(axis=0), confusion.sum(axis=1)
    scores = f1_from_counts(np.stack([hits, said - hits, true - hits]).transpose(2, 0, 1).astype(np.float64)).mean(-1)
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(grid[best[np.abs(grid[best] - bias[number]).argmin()]])


def _rivals(logits: Float64Array, bias: Float64Array, number: int) -> tuple[IntArray, Float64Array]:
    """The best class besides one, and by how much its shifted logit exceeds that one's own unshifted; both (n,)."""
    rival = np.full(logits.shape[1], -1, dtype=np.int64)
    best = np.full(logits.shape[1], -np.inf)
    for other in range(_N_CLASSES):
        if other == number:
            continue
        shifted = logits[other] + bias[other]
        above = shifted > best
        rival[above] = other
        np.copyto(best, shifted, where=above)
    return rival, best - logits[number]
