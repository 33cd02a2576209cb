"""Units, classes and values by layers: the losses that `fit_layers` goes down.

Binary cross-entropy a unit, cross-entropy over classes, and for a value 1 - CCC or the mean squared error (see
heads/losses/masked.py). A value is fitted with mean 0 and variance 1, which is undone in the last layer: the CCC does
not change when target and prediction are moved together.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from heads.arrays import Float64Array, IntArray
from heads.losses.masked import concordance_loss

from .config import LightConfig
from .gradient import LEAST_STEPS, LEAST_VALUE_STEPS, Descended, fit_layers
from .numbers import constant_logit


def descend_units(
    X: Tensor,
    rows: IntArray,
    units: Float64Array,
    weights: Float64Array,
    groups: IntArray,
    config: LightConfig,
) -> Descended:
    """One output a unit.

    Parameters
    ----------
    X, rows, groups, config
        As in `fit_layers`.
    units : shape (n, n_units)
        0 or 1; NaN where unlabelled: such an element has no part in the loss. The logit of a unit whose labels are all
        alike is a constant, as with the other estimators.
    weights : shape (n, n_units)
    """
    counted = torch.from_numpy(np.where(np.isnan(units), 0, weights)).float().to(X.device)
    labels = torch.from_numpy(np.nan_to_num(units)).float().to(X.device)

    def loss(outputs: Tensor, places: Tensor) -> Tensor:
        each = functional.binary_cross_entropy_with_logits(outputs, labels[places], reduction="none")
        weight = counted[places]
        return (each * weight).sum() / (weight > 0).sum().clamp(min=1)

    start = constant_logit((weights * (units == 1)).sum(axis=0), (weights * (units == 0)).sum(axis=0))
    fitted = fit_layers(X, rows, loss, start, groups, config, least_steps=LEAST_STEPS)
    positive, negative = (units == 1).sum(axis=0), (units == 0).sum(axis=0)
    alike = np.flatnonzero((positive == 0) | (negative == 0)).tolist()  # nothing to tell apart
    constants = dict(zip(alike, constant_logit(positive, negative)[alike].tolist(), strict=True))
    return Descended(fitted.layers.constant(constants), fitted.epoch)


def descend_classes(
    X: Tensor,
    rows: IntArray,
    classes: IntArray,
    weights: Float64Array,
    groups: IntArray,
    config: LightConfig,
) -> Descended:
    """One output a class, numbered 0 .. n_classes - 1 of which every one occurs; else as `descend_units`."""
    labels = torch.from_numpy(classes).to(X.device)
    counted = torch.from_numpy(weights).float().to(X.device)

    def loss(outputs: Tensor, places: Tensor) -> Tensor:
        return (functional.cross_entropy(outputs, labels[places], reduction="none") * counted[places]).mean()

    start = np.log(np.bincount(classes, weights) / weights.sum())
    return fit_layers(X, rows, loss, start, groups, config, least_steps=LEAST_STEPS)


def descend_values(X: Tensor, rows: IntArray, values: Float64Array, groups: IntArray, config: LightConfig) -> Descended:
    """One output, a number; else as `descend_units`."""
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    target = torch.from_numpy((values - mean) / deviation).float().to(X.device)

    def loss(outputs: Tensor, places: Tensor) -> Tensor:
        output, wanted = outputs[:, 0], target[places]
        if config.affect_loss == "mse":
            return functional.mse_loss(output, wanted)
        return concordance_loss(output, wanted, torch.ones_like(wanted, dtype=torch.bool))

    fitted = fit_layers(X, rows, loss, np.zeros(1), groups, config, least_steps=LEAST_VALUE_STEPS)
    return Descended(fitted.layers.scaled(deviation, mean), fitted.epoch)
