from collections.abc import Callable

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from featurestore.frames import FrameTable
from heads.features.targets import Targets
from heads.losses.statistics import LabelStatistics


def counted(expressions: list[float]) -> LabelStatistics:
    positive = np.array([10.0, 30, 20, 0, 40, 1, *[5] * 6])
    return LabelStatistics(au_positive=positive, au_negative=40 - positive, expressions=np.array(expressions))


def test_only_valid_labels_of_the_given_rows_count(make_frames: Callable[..., FrameTable]) -> None:
    frames = make_frames({"a": ("train", 60), "b": ("val", 40)}, unlabelled=0.3)
    targets = Targets.from_frames(frames)
    found = LabelStatistics.of(targets, frames.rows("train"))
    train = frames.data.filter(split="train")
    counts = dict(train["expression"].drop_nulls().value_counts().iter_rows())
    assert found.expressions.tolist() == [counts.get(number, 0) for number in range(8)]
    assert found.au_positive[1] == (train["au2"] == 1).sum()
    assert found.au_negative[1] == (train["au2"] == 0).sum()
    assert found.au_positive[1] + found.au_negative[1] == train["au2"].is_not_null().sum() < 60


def test_class_weights_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(8, size=500, p=[0.3, 0.05, 0.02, 0.03, 0.3, 0.1, 0.1, 0.1])
    weights = counted(np.bincount(labels, minlength=8).tolist()).class_weights()
    theirs = compute_class_weight("balanced", classes=np.arange(8), y=labels)
    assert np.allclose(weights, theirs, rtol=1e-12)
    assert np.isclose(weights[labels].mean(), 1)


def test_an_absent_class_changes_no_other_and_is_finite() -> None:
    labels = np.repeat([0, 2, 3], [6, 3, 1])
    found = counted(np.bincount(labels, minlength=8).tolist())
    theirs = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    assert np.allclose(found.class_weights(), [theirs[0], 1, theirs[1], theirs[2], 1, 1, 1, 1])
    assert np.allclose(np.exp(found.log_priors()), np.array([6, 1, 3, 1, 1, 1, 1, 1]) / 15)
    nothing = counted([0.0] * 8)
    assert nothing.class_weights().tolist() == [1.0] * 8
    assert np.allclose(nothing.log_priors(), np.log(1 / 8))


def test_a_power_of_one_half_balances_half_the_way() -> None:
    weights = counted([1.0] * 8).positive_weights(cap=4, power=0.5)
    assert np.allclose(weights[:6], [3**0.5, 3**-0.5, 1, 1, 1, 4])


def test_positive_weights_are_capped_ratios() -> None:
    weights = counted([1.0] * 8).positive_weights(cap=21)
    assert np.allclose(weights[:6], [3, 1 / 3, 1, 1, 1, 21])  # never active, and always: nothing to balance
