"""What each label weighs, so that what is rare is learned too."""

import numpy as np

from heads.arrays import Float64Array, IntArray


def unit_weights(units: Float64Array, cap: float, power: float = 1.0) -> Float64Array:
    """Weights of labels, shape (n, n_units): positives weigh (negatives / positives) ** power, at most `cap`.

    Parameters
    ----------
    units : shape (n, n_units)
        0 or 1; NaN where unlabelled.
    cap
        0 weighs none.
    """
    positive, negative = (units == 1).sum(axis=0), (units == 0).sum(axis=0)
    ratio = np.minimum((negative / np.maximum(1, positive)) ** power, cap) if cap else np.ones(units.shape[1])
    return np.where(units == 1, ratio, 1.0)


def class_weights(classes: IntArray, *, balanced: bool) -> Float64Array:
    """Weights of rows, shape (n,): if balanced the inverse of the class's share, with mean 1 over the rows."""
    if not balanced:
        return np.ones(len(classes))
    counts = np.bincount(classes)
    return (len(classes) / (np.count_nonzero(counts) * np.maximum(1, counts)))[classes]
