"""The three ways to fit a task's models on one table of inputs: boosting, gradient descent, and solving.

Each keeps the table in the form that it needs, once for all tasks, and the functions under it are the ones under the
scikit-learn estimators of boosted.py and probes.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from heads.arrays import Float64Array, FloatArray, IntArray

from .config import LAYERED, LightConfig
from .descent import descend_classes, descend_units, descend_values
from .layers import Layers
from .numbers import Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A task's models.

    Attributes
    ----------
    numbers
        The models.
    rounds
        After how many rounds or epochs each was best; none if they were solved.
    C
        The penalty's inverse strength of models that were solved.
    """

    numbers: Numbers
    rounds: tuple[int, ...] = ()
    C: float | None = None


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
        Which, and how. Without a C each task's is chosen by folds.
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
        return Fitted(numbers=made.trees, rounds=made.best_rounds)

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        from .boosting import boost_classes

        made = boost_classes(self._binned, rows, classes, weights, groups, self._config)
        return Fitted(numbers=made.trees, rounds=made.best_rounds)

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        from .boosting import boost_values

        made = boost_values(self._binned, rows, values, np.ones(len(rows)), groups, self._config)
        return Fitted(numbers=made.trees, rounds=made.best_rounds)


class _Descending:
    def __init__(self, config: LightConfig, X: FloatArray, device: torch.device) -> None:
        self._config, self._X = config, torch.from_numpy(X).to(device)

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        made = descend_units(self._X, rows, units, weights, groups, self._config)
        return Fitted(numbers=made.layers, rounds=(made.epoch,))

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        made = descend_classes(self._X, rows, classes, weights, groups, self._config)
        return Fitted(numbers=made.layers, rounds=(made.epoch,))

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        made = descend_values(self._X, rows, values, groups, self._config)
        return Fitted(numbers=made.layers, rounds=(made.epoch,))


class _Solving:
    def __init__(self, config: LightConfig, X: FloatArray) -> None:
        self._config, self._X = config, X

    def units(self, rows: IntArray, units: Float64Array, weights: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_units
        from .penalty import unit_f1

        def solve(places: IntArray, C: float) -> Layers:
            return solve_units(self._X, rows[places], units[places], weights[places], self._config, C)

        return self._solved(rows, groups, solve, lambda places, outputs: unit_f1(units[places], outputs))

    def classes(self, rows: IntArray, classes: IntArray, weights: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_classes
        from .penalty import macro_f1

        n_classes = int(classes.max()) + 1

        def solve(places: IntArray, C: float) -> Layers:
            # A fold may lack a class, and the classes in hand are numbered without gaps.
            names, some = np.unique(classes[places], return_inverse=True)
            layers = solve_classes(self._X, rows[places], some.astype(np.int64), weights[places], self._config, C)
            return layers if len(names) == n_classes else layers.spread(names.astype(np.int64), n_classes)

        return self._solved(rows, groups, solve, lambda places, outputs: macro_f1(classes[places], outputs))

    def values(self, rows: IntArray, values: Float64Array, groups: IntArray) -> Fitted:
        from .linear import solve_values
        from .penalty import concordance

        def solve(places: IntArray, C: float) -> Layers:
            return solve_values(self._X, rows[places], values[places], self._config, C)

        return self._solved(rows, groups, solve, lambda places, outputs: concordance(values[places], outputs))

    def _solved(
        self,
        rows: IntArray,
        groups: IntArray,
        solve: Callable[[IntArray, float], Layers],
        score: Callable[[IntArray, Float64Array], float],
    ) -> Fitted:
        """The model on all rows, at the penalty that folds of them choose."""
        from .penalty import choose_penalty

        def predict(layers: Layers, places: IntArray) -> Float64Array:
            return layers.outputs(self._X[rows[places]])

        C = self._config.C
        if C is None:
            C = choose_penalty(groups, solve, predict, score, seed=self._config.seed)
        return Fitted(numbers=solve(np.arange(len(rows)), C), C=C)
