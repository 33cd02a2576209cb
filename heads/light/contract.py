"""scikit-learn's estimator contract, kept once for trees and for layers.

A classifier takes either classes, y of shape (n,), or units, y of shape (n, n_units) with at least two columns: 1 where
a unit is active, 0 where it is not, and NaN or any negative number where it was not labelled. A unit learns from the
rows that carry its label; what stands elsewhere changes nothing. (The dataset's own mark is -1; a mask in
another form becomes NaN by ``np.where(valid, y, np.nan)``.)

`groups`, one number a row, keeps rows together when a fold is held out for early stopping: give the videos. Without
them each row is a group of its own, and frames of one video stand on both sides.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, assert_all_finite, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featurestore.errors import ShapeError
from heads.arrays import Float64Array, FloatArray, IntArray

from .numbers import Numbers, sigmoid, softmax

_DTYPES: Final = (np.float32, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What a classifier learns.

    Attributes
    ----------
    names : shape (n_classes,)
        The classes in order; of units their numbers.
    classes : shape (n,), int64
        Each row's place in `names`; None if y holds units.
    units : shape (n, n_units)
        0, 1, or NaN where unlabelled; None if y holds classes.
    """

    names: NDArray[np.generic]
    classes: IntArray | None = None
    units: Float64Array | None = None


class LightClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What a classifier says once it is fitted, from the logits of its `Numbers`."""

    classes_: NDArray[np.generic]
    numbers_: Numbers
    _is_of_units: bool

    def decision_function(self, X: ArrayLike) -> Float64Array:
        """Logits: shape (n, n_units) of units, (n, n_classes) of classes, (n,) of two (above 0: the second)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if not self._is_of_units and logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> Float64Array:
        """Probabilities: shape (n, n_units) that each unit is active, or (n, n_classes), summing to 1."""
        logits = self._logits(X)
        return sigmoid(logits) if self._is_of_units else softmax(logits)

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """Active units as 0 and 1, shape (n, n_units), or the most probable class, shape (n,)."""
        logits = self._logits(X)
        return (logits > 0).astype(np.int64) if self._is_of_units else self.classes_[logits.argmax(axis=1)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _logits(self, X: ArrayLike) -> Float64Array:
        check_is_fitted(self)
        return self.numbers_.outputs(validate_data(self, X, dtype=_DTYPES, reset=False))

    def _learned(self, labels: Labels, numbers: Numbers) -> None:
        self.classes_, self.numbers_, self._is_of_units = labels.names, numbers, labels.units is not None


class LightRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What a regressor says once it is fitted, from its `Numbers`."""

    numbers_: Numbers

    def predict(self, X: ArrayLike) -> Float64Array:
        """Values, shape (n,); nothing keeps them in a range."""
        check_is_fitted(self)
        return self.numbers_.outputs(validate_data(self, X, dtype=_DTYPES, reset=False))[:, 0]


def read_inputs(estimator: BaseEstimator, X: ArrayLike, y: ArrayLike | None) -> FloatArray:
    """X as an array of finite numbers, one row each of `y`; the estimator notes its columns."""
    # y is looked at elsewhere: scikit-learn knows no label that is not there.
    inputs: FloatArray = validate_data(estimator, X, None if y is None else "no_validation", dtype=_DTYPES)
    check_consistent_length(inputs, y)
    return inputs


def read_labels(y: ArrayLike) -> Labels:
    """Classes, or units.

    Raises
    ------
    ValueError
        If they are neither.
    """
    given = np.asarray(y)
    if given.ndim != 2 or given.shape[1] == 1:
        given = column_or_1d(given, warn=True)
        check_classification_targets(given)
        assert_all_finite(given, input_name="y")
        names, classes = np.unique(given, return_inverse=True)
        return Labels(names, classes=classes.astype(np.int64))
    units = given.astype(np.float64)
    units[units < 0] = np.nan
    if not np.isin(units[~np.isnan(units)], (0, 1)).all():
        raise ShapeError(
            "Units are labelled 1 (active), 0 (not), or NaN or a negative number (unlabelled), but y, of shape "
            f"{given.shape}, holds others, up to {np.nanmax(units)}. Of classes give one column."
        )
    return Labels(np.arange(units.shape[1]), units=units)


def read_values(y: ArrayLike) -> Float64Array:
    """Finite numbers, shape (n,)."""
    values: Float64Array = column_or_1d(y, warn=True, dtype=np.float64)
    assert_all_finite(values, input_name="y")
    return values


def read_groups(groups: ArrayLike | None, n_rows: int) -> IntArray:
    """Each row's group as a number, shape (n_rows,); its own where none are given."""
    if groups is None:
        return np.arange(n_rows)
    given = column_or_1d(groups)
    if len(given) != n_rows:
        raise ShapeError(f"Groups must be one a row, got {len(given)} for {n_rows} rows. Give each row its video.")
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def read_seed(random_state: int | np.random.RandomState | None) -> int:
    """A seed out of what scikit-learn calls a random state; None draws one."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
