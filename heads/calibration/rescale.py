"""The factor and offset of valence or arousal that maximise its CCC.

CCC(y, a x + b) is highest where mean and variance of both agree, a = sd(y) / sd(x), and is then their correlation
(Lin 1989). A predictor trained to a mean shrinks towards it, which costs concordance and no correlation.
"""

from typing import Final

import numpy as np

from heads.arrays import Float64Array, IntArray

from .calibration import Affine

IDENTITY: Final = Affine(scale=1.0, offset=0.0)


def affine_from_sums(sums: Float64Array) -> Affine:
    """Factor and offset from n and the sums of y, x, y^2, x^2 and x y, target y and prediction x; shape (6,).

    Where either is constant, or they do not correlate positively, nothing is to be gained: the identity.
    """
    n, sum_y, sum_x, sum_yy, sum_xx, sum_xy = (float(each) for each in sums)
    if n < 2:
        return IDENTITY
    mean_y, mean_x = sum_y / n, sum_x / n
    variance_y, variance_x = sum_yy / n - mean_y**2, sum_xx / n - mean_x**2
    smallest = 1e-12  # of variances of values in [-1, 1]: below it there is rounding alone
    if variance_y < smallest or variance_x < smallest or sum_xy / n <= mean_x * mean_y:
        return IDENTITY
    scale = float(np.sqrt(variance_y / variance_x))
    return Affine(scale=scale, offset=mean_y - scale * mean_x)


def moment_sums(target: Float64Array, prediction: Float64Array, fold: IntArray, *, n_folds: int) -> Float64Array:
    """What `affine_from_sums` takes, for every fold, shape (n_folds, 6); all arrays (n,)."""
    y, x = target, prediction
    columns = (np.ones_like(y), y, x, y * y, x * x, x * y)
    return np.stack([np.bincount(fold, weights=column, minlength=n_folds) for column in columns], axis=1)
