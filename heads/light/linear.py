"""scikit-learn's own linear models, used as they are and read out as one layer.

Their decision functions are taken for logits: a logistic regression's are, and of a ridge's and an SVM's margins the
sigmoid and the softmax keep every decision, which is all that F1 asks for. They are no calibrated probabilities;
that is what heads/calibration is for. Only linear SVMs are here (see config.py); liblinear holds its rows in 16 bytes a
value, 1.7 GB for 141,431 rows of 768.
"""

from typing import Final, Protocol

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.svm import LinearSVC, LinearSVR
from threadpoolctl import threadpool_limits

from heads.arrays import Float64Array, FloatArray, IntArray

from .config import LightConfig
from .layers import Layers
from .numbers import constant_logit

SVR_EPSILON: Final = 0.1
"""Errors of valence and arousal that cost nothing."""
SMALL_TABLE: Final = 20_000_000
"""Values of a table up to which one thread solves: its products are bound by memory, and OpenBLAS's threads wait for
each other by spinning, which beside one busy process took four times as long (4,000 rows of 384)."""
_MAX_ITERATIONS: Final = 1000


def make_classifier(config: LightConfig, C: float) -> LogisticRegression | RidgeClassifier | LinearSVC:
    """The classifier that a configuration names, not fitted."""
    match config.estimator:
        case "logistic":
            return LogisticRegression(C=C, max_iter=_MAX_ITERATIONS)
        case "ridge":
            return RidgeClassifier(alpha=1 / C)
        case _:
            return LinearSVC(C=C, dual=False, max_iter=_MAX_ITERATIONS)


def make_regressor(config: LightConfig, C: float) -> Ridge | LinearSVR:
    """The regressor that a configuration names, not fitted."""
    if config.estimator == "svm":
        # Squared beyond epsilon, the problem can be solved by its columns instead of its rows.
        loss = "squared_epsilon_insensitive"
        return LinearSVR(C=C, epsilon=SVR_EPSILON, loss=loss, dual=False, max_iter=_MAX_ITERATIONS)
    return Ridge(alpha=1 / C)


def solve_units(
    X: FloatArray, rows: IntArray, units: Float64Array, weights: Float64Array, config: LightConfig, C: float
) -> Layers:
    """One classifier a unit.

    Parameters
    ----------
    X, rows
        Inputs, and which of their rows are learned from, ascending.
    units, weights : shape (n, n_units)
        0 or 1, NaN where unlabelled; what each weighs.
    config, C
        Which classifier, and the inverse of its penalty's strength.
    """
    coefficients, intercepts = [], []
    for labels, weight in zip(units.T, weights.T, strict=True):
        valid = np.flatnonzero(~np.isnan(labels))
        positive = labels[valid].sum(keepdims=True)
        if positive[0] in (0, len(valid)):  # nothing to tell apart
            coefficients.append(np.zeros((1, X.shape[1])))
            intercepts.append(constant_logit(positive, len(valid) - positive))
            continue
        model = make_classifier(config, C)
        _solve(model, _some(X, rows[valid]), labels[valid].astype(np.int64), weight[valid])
        coefficients.append(np.atleast_2d(model.coef_))
        intercepts.append(np.atleast_1d(model.intercept_))
    return Layers.linear(np.concatenate(coefficients), np.concatenate(intercepts))


def solve_classes(
    X: FloatArray, rows: IntArray, classes: IntArray, weights: Float64Array, config: LightConfig, C: float
) -> Layers:
    """One classifier of classes 0 .. n_classes - 1, of which every one occurs; weights (n,); else as `solve_units`."""
    n_classes = int(classes.max()) + 1
    if n_classes == 1:
        return Layers.linear(np.zeros((1, X.shape[1])), np.zeros(1))
    model = make_classifier(config, C)
    _solve(model, _some(X, rows), classes, weights)
    if n_classes > 2:
        return Layers.linear(model.coef_, model.intercept_)
    # Of two classes scikit-learn has one output, the second's; the first's logit is 0.
    second = np.atleast_2d(model.coef_)
    return Layers.linear(np.vstack([np.zeros_like(second), second]), np.append(0, model.intercept_))


def solve_values(X: FloatArray, rows: IntArray, values: Float64Array, config: LightConfig, C: float) -> Layers:
    """One regressor; else as `solve_units`."""
    model = make_regressor(config, C)
    _solve(model, _some(X, rows), values)
    return Layers.linear(np.reshape(model.coef_, (1, -1)), np.reshape(model.intercept_, 1))


def _solve(model: "_Solvable", X: FloatArray, *labels: Float64Array | IntArray) -> None:
    """Fit, with one thread of BLAS where the table is small."""
    with threadpool_limits(1 if X.size <= SMALL_TABLE else None, user_api="blas"):
        model.fit(X, *labels)


class _Solvable(Protocol):
    def fit(self, X: FloatArray, /, *labels: Float64Array | IntArray) -> object: ...


def _some(X: FloatArray, rows: IntArray) -> FloatArray:
    return X if len(rows) == len(X) else X[rows]
