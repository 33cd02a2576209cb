"""scikit-learn's own checks of its estimator contract."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from featurestore.errors import ConfigError, ShapeError
from heads.light.boosted import BoostedClassifier, BoostedRegressor
from heads.light.contract import read_groups, read_labels
from heads.light.probes import ProbeClassifier, ProbeRegressor

# Small enough for thirty rows, and for a hundred checks.
ESTIMATORS = [
    BoostedClassifier(n_estimators=8, n_leaves=4, min_leaf_rows=2),
    BoostedRegressor(n_estimators=8, n_leaves=4, min_leaf_rows=2, learning_rate=0.3),
    ProbeClassifier(learning_rate=0.1, epochs=12, hidden=(8,), dropout=0.0),
    ProbeRegressor(learning_rate=0.1, epochs=10),
]

# LightGBM's own estimators expect the same failure.
WEIGHTS = "a row of weight 0 still counts towards a leaf's least rows, the bins of its column and the fold held out"


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    boosted = isinstance(estimator, BoostedClassifier | BoostedRegressor)
    return {"check_sample_weight_equivalence_on_dense_data": WEIGHTS} if boosted else {}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # a check's own NaN
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)  # type: ignore[untyped-decorator]
def test_estimators_keep_scikit_learns_contract(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    check(estimator)


def test_labels_are_classes_or_units() -> None:
    classes = read_labels(np.array(["b", "a", "b"]))
    assert classes.units is None
    assert classes.names.tolist() == ["a", "b"]
    assert classes.classes is not None
    assert classes.classes.tolist() == [1, 0, 1]
    units = read_labels(np.array([[1, 0], [-1, 1], [np.nan, -5]]))
    assert units.classes is None
    assert units.units is not None
    np.testing.assert_array_equal(units.units, [[1, 0], [np.nan, 1], [np.nan, np.nan]])
    with pytest.raises(ShapeError, match=r"labelled 1 \(active\).* up to 3.0"):
        read_labels([[0, 3], [1, 0]])


def test_groups_are_numbered() -> None:
    assert read_groups(["v2", "v1", "v2"], 3).tolist() == [1, 0, 1]
    assert read_groups(None, 2).tolist() == [0, 1]
    with pytest.raises(ShapeError, match="one a row, got 2 for 3 rows"):
        read_groups([1, 2], 3)


def test_parameters_are_checked_when_fitting() -> None:
    X, y = np.zeros((4, 2)), np.arange(4) % 2
    with pytest.raises(ConfigError, match=r"n_leaves must be at least 2, got 1.* held_out must be a share"):
        BoostedClassifier(n_leaves=1, held_out=1.5).fit(X, y)
    with pytest.raises(ConfigError, match="There is no loss of valence and arousal 'mae'"):
        ProbeRegressor(loss="mae").fit(X, y)
    with pytest.raises(ShapeError, match="not all zero; got shape"):
        BoostedRegressor().fit(X, y, sample_weight=np.zeros(4))
