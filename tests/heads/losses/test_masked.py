"""Each loss against a reference of its own, in float64, and against torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from heads.losses.masked import (
    masked_asymmetric,
    masked_binary_cross_entropy,
    masked_cross_entropy,
    masked_smooth_l1,
    masked_squared_error,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SEEDS = st.integers(0, 2**32 - 1)
EXPONENTS = st.floats(0, 5)


def units(seed: int) -> tuple[Array, Array, Mask]:
    """Logits, targets and mask of a few frames' action units; at least one element is valid."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=rng.uniform(0.1, 6), size=(4, 3, 12))
    valid = rng.random(logits.shape) < 0.6
    valid[0, 0, 0] = True
    return logits, (rng.random(logits.shape) < 0.4).astype(np.float64), valid


def classes(seed: int) -> tuple[Array, NDArray[np.int64], Mask]:
    rng = np.random.default_rng(seed)
    valid = rng.random((4, 5)) < 0.6
    valid[0, 0] = True
    return rng.normal(scale=3, size=(4, 5, 8)), rng.integers(0, 8, (4, 5)), valid


def tensors(*arrays: NDArray[np.generic]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def probability(logits: Array, targets: Array) -> Array:
    """Of the target that is there."""
    return np.asarray(1 / (1 + np.exp(-np.where(targets > 0, logits, -logits))))


@settings(max_examples=30, deadline=None)
@given(SEEDS, EXPONENTS)
def test_focal_of_action_units(seed: int, gamma: float) -> None:
    logits, targets, valid = units(seed)
    weights = np.random.default_rng(seed).uniform(0.1, 20, 12)
    p = probability(logits, targets)
    expected = (np.where(targets > 0, weights, 1) * (1 - p) ** gamma * -np.log(p))[valid].mean()
    got = masked_binary_cross_entropy(
        *tensors(logits, targets, valid), positive_weights=torch.from_numpy(weights), gamma=gamma
    )
    assert float(got) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, EXPONENTS, EXPONENTS, st.floats(0, 0.9))
def test_asymmetric(seed: int, on_positive: float, on_negative: float, clip: float) -> None:
    logits, targets, valid = units(seed)
    p = 1 / (1 + np.exp(-logits))
    shifted = np.maximum(p - clip, 0)
    positive = (1 - p) ** on_positive * np.log(p)
    negative = shifted**on_negative * np.log(1 - shifted)
    expected = -(targets * positive + (1 - targets) * negative)[valid].mean()
    got = masked_asymmetric(*tensors(logits, targets, valid), gammas=(on_positive, on_negative), clip=clip)
    assert float(got) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_without_exponents_and_shift_all_are_binary_cross_entropy(seed: int) -> None:
    logits, targets, valid = tensors(*units(seed))
    weights = torch.linspace(0.2, 9, 12, dtype=torch.float64)
    expected = nn.BCEWithLogitsLoss(reduction="none", pos_weight=weights)(logits, targets)[valid].mean()
    plain = masked_binary_cross_entropy(logits, targets, valid, positive_weights=weights)
    asymmetric = masked_asymmetric(logits, targets, valid, gammas=(0, 0), clip=0, positive_weights=weights)
    assert float(plain) == pytest.approx(float(expected), rel=1e-12)
    assert float(asymmetric) == pytest.approx(float(expected), rel=1e-12)


def test_a_shift_that_hardly_shifts_is_none() -> None:
    logits, targets, valid = tensors(*units(3))
    without = masked_asymmetric(logits, targets, valid, gammas=(1, 4), clip=0)
    assert float(masked_asymmetric(logits, targets, valid, gammas=(1, 4), clip=1e-9)) == pytest.approx(float(without))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0, 0.9), EXPONENTS)
def test_expressions_with_smoothing_and_focus(seed: int, smoothing: float, gamma: float) -> None:
    logits, targets, valid = classes(seed)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(8)[targets] + smoothing / 8
    own = np.exp(np.take_along_axis(log_p, targets[..., None], axis=-1))[..., 0]
    expected = ((1 - own) ** gamma * -(wanted * log_p).sum(axis=-1))[valid].mean()
    got = masked_cross_entropy(*tensors(logits, targets, valid), label_smoothing=smoothing, gamma=gamma)
    assert float(got) == pytest.approx(expected, rel=1e-8)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0, 0.9))
def test_class_weights_and_smoothing_are_torchs_but_for_the_divisor(seed: int, smoothing: float) -> None:
    logits, targets, valid = tensors(*classes(seed))
    weights = torch.linspace(0.2, 4, 8, dtype=torch.float64)
    theirs = nn.CrossEntropyLoss(weight=weights, label_smoothing=smoothing)(logits[valid], targets[valid])
    scale = weights[targets[valid]].sum() / valid.sum()  # torch divides by the weights, not by the rows
    got = masked_cross_entropy(logits, targets, valid, class_weights=weights, label_smoothing=smoothing)
    assert float(got) == pytest.approx(float(theirs * scale), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.01, 2))
def test_errors_of_affect(seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 4, 5))
    valid = rng.random((4, 5)) < 0.6
    valid[0, 0] = True
    error = np.abs(x - y)[valid]
    huber = np.where(error < beta, error**2 / (2 * beta), error - beta / 2).mean()
    assert float(masked_squared_error(*tensors(x, y, valid))) == pytest.approx((error**2).mean(), rel=1e-12)
    assert float(masked_smooth_l1(*tensors(x, y, valid), beta=beta)) == pytest.approx(huber, rel=1e-12)
