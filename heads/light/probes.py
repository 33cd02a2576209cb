"""Linear probes and small networks as scikit-learn estimators, fitted by gradient descent with torch."""

from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from heads.arrays import FloatArray
from heads.devices import resolve_device

from .config import LAYERS_RATE, LightConfig
from .contract import (
    LightClassifier,
    LightRegressor,
    read_groups,
    read_inputs,
    read_labels,
    read_seed,
    read_values,
)
from .descent import descend_classes, descend_units, descend_values
from .layers import Layers
from .weighing import class_weights, unit_weights

DEFAULTS: Final = LightConfig(estimator="linear")


class ProbeClassifier(LightClassifier):
    """A linear probe, or a small network, of units or of classes (see contract.py for both forms of y).

    Inputs are taken as they come: bring them to one scale first, as scikit-learn's StandardScaler does.

    Parameters
    ----------
    hidden
        Widths of hidden layers, each followed by a ReLU and dropout; none make a linear model.
    dropout, learning_rate, weight_decay, epochs, batch_rows, early_stopping_rounds, held_out, refit
        As in `LightConfig`.
    balance
        As in `BoostedClassifier`.
    device
        Where it is fitted: as in `FitConfig`.
    random_state
        Of weights, order, dropout and the held-out fold.

    Attributes
    ----------
    classes_ : shape (n_classes,)
        Of units their numbers.
    best_iteration_ : int
        The epoch that is kept.
    numbers_ : Layers
        The fitted layers.
    n_features_in_ : int
    """

    numbers_: Layers
    best_iteration_: int

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (),
        dropout: float = DEFAULTS.dropout,
        learning_rate: float = LAYERS_RATE,
        weight_decay: float = DEFAULTS.weight_decay,
        epochs: int = DEFAULTS.epochs,
        batch_rows: int | None = DEFAULTS.batch_rows,
        early_stopping_rounds: int = DEFAULTS.early_stopping_rounds,
        held_out: float = DEFAULTS.held_out,
        refit: bool = False,
        balance: float = 0.0,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_rows = batch_rows
        self.early_stopping_rounds = early_stopping_rounds
        self.held_out = held_out
        self.refit = refit
        self.balance = balance
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "ProbeClassifier":
        """Fit to inputs (n, n_columns) and classes (n,) or units (n, n_units), with a group each."""
        inputs = read_inputs(self, X, y)
        labels, config = read_labels(y), _config(self)
        table, rows, group = _placed(inputs, self.device), np.arange(len(inputs)), read_groups(groups, len(inputs))
        if labels.units is not None:
            weights = unit_weights(labels.units, self.balance)
            fitted = descend_units(table, rows, labels.units, weights, group, config)
        elif labels.classes is not None:
            weights = class_weights(labels.classes, balanced=self.balance > 0)
            fitted = descend_classes(table, rows, labels.classes, weights, group, config)
        self._learned(labels, fitted.layers)
        self.best_iteration_ = fitted.epoch
        return self


class ProbeRegressor(LightRegressor):
    """A linear probe, or a small network, of one number, by 1 - CCC or least squares.

    Inputs are taken as they come, as by `ProbeClassifier`.

    Parameters
    ----------
    hidden, dropout, learning_rate, weight_decay, epochs, batch_rows, early_stopping_rounds, held_out, refit, device
        As in `ProbeClassifier`.
    loss
        ``"ccc"`` or ``"mse"``.
    random_state
        As in `ProbeClassifier`.

    Attributes
    ----------
    best_iteration_ : int
        The epoch that is kept.
    numbers_ : Layers
        The fitted layers.
    n_features_in_ : int
    """

    numbers_: Layers
    best_iteration_: int

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] = (),
        dropout: float = DEFAULTS.dropout,
        learning_rate: float = LAYERS_RATE,
        weight_decay: float = DEFAULTS.weight_decay,
        epochs: int = DEFAULTS.epochs,
        batch_rows: int | None = DEFAULTS.batch_rows,
        early_stopping_rounds: int = DEFAULTS.early_stopping_rounds,
        held_out: float = DEFAULTS.held_out,
        refit: bool = False,
        loss: str = DEFAULTS.affect_loss,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_rows = batch_rows
        self.early_stopping_rounds = early_stopping_rounds
        self.held_out = held_out
        self.refit = refit
        self.loss = loss
        self.device = device
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "ProbeRegressor":
        """Fit to inputs (n, n_columns) and values (n,), with a group each."""
        inputs = read_inputs(self, X, y)
        values, config, group = read_values(y), _config(self), read_groups(groups, len(inputs))
        fitted = descend_values(_placed(inputs, self.device), np.arange(len(inputs)), values, group, config)
        self.numbers_, self.best_iteration_ = fitted.layers, fitted.epoch
        return self


def _config(estimator: ProbeClassifier | ProbeRegressor) -> LightConfig:
    """What an estimator's parameters say, checked."""
    return LightConfig(
        estimator="mlp" if estimator.hidden else "linear",
        hidden=tuple(estimator.hidden),
        dropout=estimator.dropout,
        learning_rate=estimator.learning_rate,
        weight_decay=estimator.weight_decay,
        epochs=estimator.epochs,
        batch_rows=estimator.batch_rows,
        early_stopping_rounds=estimator.early_stopping_rounds,
        held_out=estimator.held_out,
        refit=estimator.refit,
        affect_loss=estimator.loss if isinstance(estimator, ProbeRegressor) else DEFAULTS.affect_loss,
        seed=read_seed(estimator.random_state),
    )


def _placed(X: FloatArray, device: str) -> Tensor:
    return torch.from_numpy(np.array(X, dtype=np.float32)).to(resolve_device(device))
