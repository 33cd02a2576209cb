"""Boosted trees as scikit-learn estimators."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from featurestore.errors import ShapeError
from heads.arrays import Float64Array, FloatArray

from .boosting import BinnedRows, boost_classes, boost_units, boost_values
from .config import BOOSTING_RATE, LightConfig
from .contract import (
    LightClassifier,
    LightRegressor,
    read_groups,
    read_inputs,
    read_labels,
    read_seed,
    read_values,
)
from .trees import Trees
from .weighing import class_weights, unit_weights

DEFAULTS: Final = LightConfig(estimator="lightgbm")


class BoostedClassifier(LightClassifier):
    """LightGBM of units (one binary model each) or of classes (see contract.py for both forms of y).

    Parameters
    ----------
    learning_rate, n_estimators, n_leaves, min_leaf_rows, tree_columns, early_stopping_rounds, held_out, refit
        As in `LightConfig`.
    balance
        Of units, the cap of a positive's weight, negatives : positives; of classes, any number above 0 weighs each as
        the inverse of its share. 0 weighs all labels alike.
    random_state
        Of the held-out fold and of the columns that trees see.

    Attributes
    ----------
    classes_ : shape (n_classes,)
        Of units their numbers.
    best_iteration_ : int, of units a tuple of one a unit
        Rounds that are kept; 0 where all labels are alike and there is no tree.
    numbers_ : Trees
        The fitted trees.
    n_features_in_ : int
    """

    numbers_: Trees
    best_iteration_: int | tuple[int, ...]

    def __init__(
        self,
        *,
        learning_rate: float = BOOSTING_RATE,
        n_estimators: int = DEFAULTS.n_estimators,
        n_leaves: int = DEFAULTS.n_leaves,
        min_leaf_rows: int | None = DEFAULTS.min_leaf_rows,
        tree_columns: int = DEFAULTS.tree_columns,
        early_stopping_rounds: int = DEFAULTS.early_stopping_rounds,
        held_out: float = DEFAULTS.held_out,
        refit: bool = False,
        balance: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.n_leaves = n_leaves
        self.min_leaf_rows = min_leaf_rows
        self.tree_columns = tree_columns
        self.early_stopping_rounds = early_stopping_rounds
        self.held_out = held_out
        self.refit = refit
        self.balance = balance
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "BoostedClassifier":
        """Fit to inputs (n, n_columns) and classes (n,) or units (n, n_units), with a weight and a group each."""
        inputs = read_inputs(self, X, y)
        labels, config = read_labels(y), _config(self)
        weight, group = _read_weight(sample_weight, inputs), read_groups(groups, len(inputs))
        rows, binned = np.arange(len(inputs)), BinnedRows(inputs)
        if labels.units is not None:
            weights = unit_weights(labels.units, self.balance) * weight[:, None]
            fitted = boost_units(binned, rows, labels.units, weights, group, config)
            self.best_iteration_ = fitted.best_rounds
        elif labels.classes is not None:
            weights = class_weights(labels.classes, balanced=self.balance > 0) * weight
            fitted = boost_classes(binned, rows, labels.classes, weights, group, config)
            self.best_iteration_ = fitted.best_rounds[0]
        self._learned(labels, fitted.trees)
        return self


class BoostedRegressor(LightRegressor):
    """LightGBM of one number, by least squares.

    Parameters
    ----------
    learning_rate, n_estimators, n_leaves, min_leaf_rows, tree_columns, early_stopping_rounds, held_out, refit
        As in `LightConfig`.
    random_state
        Of the held-out fold and of the columns that trees see.

    Attributes
    ----------
    best_iteration_ : int
        Rounds that are kept.
    numbers_ : Trees
        The fitted trees.
    n_features_in_ : int
    """

    numbers_: Trees
    best_iteration_: int

    def __init__(
        self,
        *,
        learning_rate: float = BOOSTING_RATE,
        n_estimators: int = DEFAULTS.n_estimators,
        n_leaves: int = DEFAULTS.n_leaves,
        min_leaf_rows: int | None = DEFAULTS.min_leaf_rows,
        tree_columns: int = DEFAULTS.tree_columns,
        early_stopping_rounds: int = DEFAULTS.early_stopping_rounds,
        held_out: float = DEFAULTS.held_out,
        refit: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.n_leaves = n_leaves
        self.min_leaf_rows = min_leaf_rows
        self.tree_columns = tree_columns
        self.early_stopping_rounds = early_stopping_rounds
        self.held_out = held_out
        self.refit = refit
        self.random_state = random_state

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> "BoostedRegressor":
        """Fit to inputs (n, n_columns) and values (n,), with a weight and a group each."""
        inputs = read_inputs(self, X, y)
        values, config = read_values(y), _config(self)
        weight, group = _read_weight(sample_weight, inputs), read_groups(groups, len(inputs))
        fitted = boost_values(BinnedRows(inputs), np.arange(len(inputs)), values, weight, group, config)
        self.numbers_, self.best_iteration_ = fitted.trees, fitted.best_rounds[0]
        return self


def _config(estimator: BoostedClassifier | BoostedRegressor) -> LightConfig:
    """What an estimator's parameters say, checked."""
    return LightConfig(
        estimator="lightgbm",
        learning_rate=estimator.learning_rate,
        n_estimators=estimator.n_estimators,
        n_leaves=estimator.n_leaves,
        min_leaf_rows=estimator.min_leaf_rows,
        tree_columns=estimator.tree_columns,
        early_stopping_rounds=estimator.early_stopping_rounds,
        held_out=estimator.held_out,
        refit=estimator.refit,
        seed=read_seed(estimator.random_state),
    )


def _read_weight(sample_weight: ArrayLike | None, X: FloatArray) -> Float64Array:
    if sample_weight is None:
        return np.ones(len(X))
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(X),) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise ShapeError(
            f"Sample weights must be finite, one a row, none below zero and not all zero; got shape {weight.shape} for "
            f"{len(X)} rows, values up to {weight.max(initial=0)}. Leave them out to weigh all alike."
        )
    return weight
