"""The three ways to fit a task's models on one table of inputs: boosting, gradient descent, and solving.

Each keeps the table in the form that it needs, once for all tasks, and the functions under it are the ones under the
scikit-learn estimators of boosted.py and probes.py.
"""

from typing import Protocol

import numpy as np
import torch

from heads.arrays import Float64Array, FloatArray, IntArray

from .config import LAYERED, LightConfig
from .descent import descend_classes, descend_units, descend_values
from .numbers import Numbers

Fitted = tuple[Numbers, tuple[int, ...]]
"""A task's models, and after how many rounds or epochs each was best; none if they were solved."""


class Learner(Protocol):
    """Fits models on rows of one table, which are given by number, ascending, with the group of each.

    Labels and weights are as the functions that do the work take them: `boost_units`, `boost_classes`, `boost_values`.
    """

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        """A model a unit."""
        ...

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        """A model of classes."""
        ...

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        """A model of a number."""
        ...


def make_learner(config: LightConfig, X: FloatArray, device: torch.device) -> Learner:
    """The learner of an estimator.

    Parameters
    ----------
    config
        Which, and how.
    X : shape (n, n_columns), float32
        Inputs; boosting and gradient descent on a GPU do not hold on to them.
    device
        Where gradient descent goes on.
    """
    if config.estimator == "lightgbm":
        return _Boosting(config, X)
    return _Descending(config, X, device) if config.estimator in LAYERED else _Solving(config, X)


class _Boosting:
    # LightGBM and scikit-learn take seconds to import, and whoever only reads a run needs neither.
    def __init__(self, config: LightConfig, X: FloatArray) -> None:
        from .boosting import BinnedRows

        self._config, self._binned = config, BinnedRows(X)

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        from .boosting import boost_units

        made = boost_units(self._binned, rows, units, weights, groups, self._config)
        return made.trees, made.best_rounds

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        from .boosting import boost_classes

        made = boost_classes(self._binned, rows, classes, weights, groups, self._config)
        return made.trees, made.best_rounds

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        from .boosting import boost_values

        made = boost_values(self._binned, rows, values, np.ones(len(rows)), groups, self._config)
        return made.trees, made.best_rounds


class _Descending:
    def __init__(self, config: LightConfig, X: FloatArray, device: torch.device) -> None:
        self._config, self._X = config, torch.from_numpy(X).to(device)

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        made = descend_units(self._X, rows, units, weights, groups, self._config)
        return made.layers, (made.epoch,)

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        made = descend_classes(self._X, rows, classes, weights, groups, self._config)
        return made.layers, (made.epoch,)

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        made = descend_values(self._X, rows, values, groups, self._config)
        return made.layers, (made.epoch,)


class _Solving:
    def __init__(self, config: LightConfig, X: FloatArray) -> None:
        self._config, self._X = config, X

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_units

        return solve_units(self._X, rows, units, weights, self._config), ()

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_classes

        return solve_classes(self._X, rows, classes, weights, self._config), ()

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_values

        return solve_values(self._X, rows, values, self._config), ()
