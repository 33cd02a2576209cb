"""scikit-learn's own checks of its estimator contract."""

from collections.abc import Callable

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import parametrize_with_checks

from heads.light.boosted import BoostedClassifier, BoostedRegressor
from heads.light.probes import ProbeClassifier, ProbeRegressor

BOOSTED = {"n_estimators": 20, "min_leaf_rows": 2, "early_stopping_rounds": 10}
PROBES = {"learning_rate": 0.03, "epochs": 60}

ESTIMATORS = [
    BoostedClassifier(**BOOSTED),
    BoostedClassifier(**BOOSTED, balance=1.0, refit=True),
    BoostedRegressor(**BOOSTED),
    ProbeClassifier(**PROBES),
    ProbeClassifier(**PROBES, hidden=(8,), refit=True),
    ProbeRegressor(**PROBES),
    ProbeRegressor(**PROBES, hidden=(8,), loss="mse"),
]


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    return {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_estimators_keep_scikit_learns_contract(
    estimator: BaseEstimator, check: Callable[[BaseEstimator], None]
) -> None:
    check(estimator)
