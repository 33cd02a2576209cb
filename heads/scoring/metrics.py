"""The challenge's metrics: CCC, macro F1 of expressions, F1 of action units.

Pure functions in float64. F1 agrees with scikit-learn's (``zero_division=0``); CCC uses population moments.
Labels 0..7 all count in the macro F1, so a class that is absent and never predicted adds 0, as the challenge
does. The `_from_` functions take sufficient statistics with any leading dimensions, which is what makes the
bootstrap over videos one matrix product (see scores.py).
"""

import numpy as np

from featurestore.errors import ShapeError
from featurestore.labels import EXPRESSIONS
from heads.arrays import BoolArray, Float64Array, FloatArray, IntArray


def concordance_correlation(target: FloatArray, prediction: FloatArray, *, valid: BoolArray | None = None) -> float:
    """Lin's concordance correlation coefficient of one affect dimension.

    Parameters
    ----------
    target : shape (n_frames,), in [-1, 1]
    prediction : shape (n_frames,), in [-1, 1]
    valid : shape (n_frames,), bool
        Frames that count; all by default.

    Returns
    -------
    float in [-1, 1]; 1 is perfect agreement. If either is constant there is no covariance and it is 0, also
    for two equal constants, where the formula has no value.

    Raises
    ------
    ShapeError
        If the lengths differ, or fewer than two frames are valid.

    References
    ----------
    Lin (1989), Biometrics 45(1):255-268. Variances with ddof=0.
    """
    _same_shape("concordance_correlation", target, prediction, valid)
    x, y = (target, prediction) if valid is None else (target[valid], prediction[valid])
    if len(x) < 2:
        raise ShapeError(f"A concordance correlation needs at least two valid frames, got {len(x)} of {len(target)}.")
    x, y = x.astype(np.float64), y.astype(np.float64)
    # Asked of the values, not of the variance: a mean of equal numbers may differ from them in the last bit.
    if x.min() == x.max() or y.min() == y.max():
        return 0.0
    mean_x, mean_y = x.mean(), y.mean()
    covariance = ((x - mean_x) * (y - mean_y)).mean()
    return float(2 * covariance / (x.var() + y.var() + (mean_x - mean_y) ** 2))


def concordance_from_sums(sums: Float64Array) -> Float64Array:
    """CCC from its sufficient statistics, shape (..., 6) -> (...); 0 where it has no value.

    They are n and the sums of x, y, x^2, y^2 and xy of target x and prediction y, and add up over videos. Taken
    about the target's mean (CCC does not change when both move together) they hardly cancel.
    """
    n, sum_x, sum_y, sum_xx, sum_yy, sum_xy = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    n = np.maximum(n, 1)
    mean_x, mean_y = sum_x / n, sum_y / n
    variance_x, variance_y = sum_xx / n - mean_x**2, sum_yy / n - mean_y**2
    covariance = sum_xy / n - mean_x * mean_y
    spread = variance_x + variance_y + (mean_x - mean_y) ** 2
    # A variance that is rounding noise is none: else 0 / 0 would come out as anything.
    scale = np.finfo(np.float64).eps * 16 * (sum_xx + sum_yy) / n
    defined = (variance_x > scale) & (variance_y > scale)
    result: Float64Array = np.zeros_like(spread)
    np.divide(2 * covariance, spread, out=result, where=defined & (spread > 0))
    return np.minimum(np.maximum(result, -1.0), 1.0)


def f1_per_class(
    target: IntArray, prediction: IntArray, *, n_classes: int = len(EXPRESSIONS), valid: BoolArray | None = None
) -> Float64Array:
    """F1 of every class 0..n_classes - 1; 0 for one that is absent and never predicted.

    Parameters
    ----------
    target, prediction : shape (n_frames,), int in 0..n_classes - 1
    valid : shape (n_frames,), bool
        Frames that count; all by default.

    Returns
    -------
    shape (n_classes,), in [0, 1]
    """
    _same_shape("f1_per_class", target, prediction, valid)
    if valid is not None:
        target, prediction = target[valid], prediction[valid]
    return f1_from_counts(confusion_counts(target, prediction, n_classes=n_classes))


def f1_macro(
    target: IntArray, prediction: IntArray, *, n_classes: int = len(EXPRESSIONS), valid: BoolArray | None = None
) -> float:
    """The mean of `f1_per_class`, always over all classes."""
    return float(f1_per_class(target, prediction, n_classes=n_classes, valid=valid).mean())


def f1_action_units(target: FloatArray, prediction: BoolArray, *, valid: BoolArray | None = None) -> Float64Array:
    """F1 of the positive class of every action unit; 0 for one without a positive, true or predicted.

    Parameters
    ----------
    target : shape (n_frames, n_units), 0 or 1
    prediction : shape (n_frames, n_units), bool
    valid : shape (n_frames, n_units), bool
        Elements that count; all by default.

    Returns
    -------
    shape (n_units,), in [0, 1]. Their mean is the challenge's AU score.
    """
    _same_shape("f1_action_units", target, prediction, valid)
    mask = np.ones(target.shape, dtype=np.bool_) if valid is None else valid
    return f1_from_counts(binary_counts(target > 0.5, prediction, mask))


def confusion_counts(target: IntArray, prediction: IntArray, *, n_classes: int) -> Float64Array:
    """True positives, false positives and false negatives of each class, shape (3, n_classes)."""
    hits = np.bincount(target[target == prediction], minlength=n_classes)
    predicted = np.bincount(prediction, minlength=n_classes)
    present = np.bincount(target, minlength=n_classes)
    if max(len(predicted), len(present)) > n_classes:
        raise ShapeError(f"Classes must lie in 0..{n_classes - 1}, got up to {max(len(predicted), len(present)) - 1}.")
    return np.stack([hits, predicted - hits, present - hits]).astype(np.float64)


def binary_counts(target: BoolArray, prediction: BoolArray, valid: BoolArray) -> Float64Array:
    """True positives, false positives and false negatives of each column, shape (3, n_columns)."""
    hits = (target & prediction & valid).sum(axis=0)
    false_positives = (~target & prediction & valid).sum(axis=0)
    false_negatives = (target & ~prediction & valid).sum(axis=0)
    return np.stack([hits, false_positives, false_negatives]).astype(np.float64)


def f1_from_counts(counts: Float64Array) -> Float64Array:
    """F1 from tp, fp, fn, shape (..., 3, n) -> (..., n); 0 where all three are 0."""
    hits, false_positives, false_negatives = np.moveaxis(counts, -2, 0)
    whole = 2 * hits + false_positives + false_negatives
    result: Float64Array = np.zeros_like(whole)
    np.divide(2 * hits, whole, out=result, where=whole > 0)
    return result


def _same_shape(
    what: str, target: FloatArray | IntArray, prediction: FloatArray | IntArray | BoolArray, valid: BoolArray | None
) -> None:
    shapes = [target.shape, prediction.shape] + ([] if valid is None else [valid.shape])
    if len(set(shapes)) > 1:
        raise ShapeError(f"{what}: target, prediction and mask must agree in shape, got {shapes}.")
