import numpy as np
import pytest
from lightgbm import LGBMRegressor

from heads.light.boosted import BoostedClassifier, BoostedRegressor
from heads.light.boosting import LEAST_ROUNDS, BinnedRows, _settings, boost_units, boost_values
from heads.light.config import LightConfig
from heads.light.holdout import hold_out

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6)).astype(np.float32)
GROUPS = np.repeat(np.arange(12), 20)
UNITS = np.stack([X[:, 0] > 0, X[:, 1] + X[:, 2] > 0.5, X[:, 3] > 1], axis=1).astype(np.float64)
CLASSES = np.digitize(X[:, 0], [-0.7, 0.7])


def units(**parameters: float) -> BoostedClassifier:
    return BoostedClassifier(n_estimators=30, min_leaf_rows=5, random_state=3, **parameters)  # type: ignore[arg-type]


def test_units_are_learned() -> None:
    fitted = units().fit(X, UNITS, groups=GROUPS)
    assert (fitted.predict(X) == UNITS).mean() > 0.9
    assert fitted.predict_proba(X).shape == (240, 3)
    assert len(fitted.best_iteration_) == 3  # type: ignore[arg-type]
    assert fitted.classes_.tolist() == [0, 1, 2]


def test_what_is_unlabelled_has_no_part() -> None:
    hidden = RNG.random(UNITS.shape) < 0.3
    by_nan, by_sign = np.where(hidden, np.nan, UNITS), np.where(hidden, -1, UNITS)
    first, second = units().fit(X, by_nan, groups=GROUPS), units().fit(X, by_sign, groups=GROUPS)
    assert first.numbers_.texts == second.numbers_.texts
    full = units().fit(X, UNITS, groups=GROUPS)
    assert first.numbers_.texts[0] != full.numbers_.texts[0]


def test_a_unit_is_fitted_as_it_would_be_alone_on_its_own_rows() -> None:
    config = LightConfig(estimator="lightgbm", n_estimators=10, min_leaf_rows=5)
    binned, weights = BinnedRows(X), np.ones_like(UNITS)
    hidden = RNG.random(UNITS.shape) < 0.3
    together = boost_units(binned, np.arange(240), np.where(hidden, np.nan, UNITS), weights, GROUPS, config)
    for number in range(3):
        rows = np.flatnonzero(~hidden[:, number])
        alone = boost_units(binned, rows, UNITS[rows][:, [number]], weights[rows][:, [number]], GROUPS[rows], config)
        assert alone.trees.texts[0] == together.trees.texts[number]


def test_a_unit_whose_labels_are_alike_is_a_constant() -> None:
    y = UNITS.copy()
    y[:, 1] = 1
    y[:, 2] = np.nan
    fitted = units().fit(X, y, groups=GROUPS)
    logits = fitted.decision_function(X)
    assert (logits[:, 1] == np.log(240.5 / 0.5)).all()
    assert (logits[:, 2] == 0).all()
    assert fitted.best_iteration_[1:] == (0, 0)  # type: ignore[index]
    assert (fitted.predict(X)[:, 0] == UNITS[:, 0]).mean() > 0.9


def test_the_fold_decides_when_to_stop_and_is_not_learned_from() -> None:
    held = hold_out(GROUPS, 0.15, seed=3)
    noise = RNG.random(240) > 0.5
    y = CLASSES.astype(bool)
    spoilt = np.where(held, noise, y)
    good, bad = (units(early_stopping_rounds=3).fit(X, labels, groups=GROUPS) for labels in (y, spoilt))
    assert bad.best_iteration_ < good.best_iteration_  # type: ignore[operator]
    # The trees that both keep are the same: the held-out labels are only looked at.
    trees = [each.numbers_.texts[0].split("Tree=0")[1].split("\n\n")[0] for each in (good, bad)]
    assert trees[0] == trees[1]
    # Without groups each row is its own, and another fold is held out.
    assert units().fit(X, y).numbers_.texts != units().fit(X, y, groups=GROUPS).numbers_.texts


def test_refit_takes_all_rows_and_no_fewer_rounds_than_the_least() -> None:
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(240) < 0.3, rng.permutation(CLASSES), CLASSES)
    asked = {"n_estimators": 60, "min_leaf_rows": 5, "random_state": 3}
    plain = BoostedClassifier(**asked, early_stopping_rounds=5).fit(X, noisy, groups=GROUPS)
    again = BoostedClassifier(**asked, early_stopping_rounds=5, refit=True).fit(X, noisy, groups=GROUPS)
    assert plain.best_iteration_ < 60 < LEAST_ROUNDS  # type: ignore[operator]
    assert again.best_iteration_ == 60  # at most as many as are asked for
    fixed = BoostedClassifier(**asked, early_stopping_rounds=0).fit(X, noisy, groups=GROUPS)
    np.testing.assert_array_equal(again.predict_proba(X), fixed.predict_proba(X))
    assert (plain.predict_proba(X) != again.predict_proba(X)).any()


def test_trees_are_lightgbms_own() -> None:
    y = np.tanh(X[:, 0] + X[:, 1])
    config = LightConfig(estimator="lightgbm", early_stopping_rounds=0, n_estimators=100, seed=0)
    ours = boost_values(BinnedRows(X), np.arange(240), y, np.ones(240), GROUPS, config)
    theirs = LGBMRegressor(  # of 240 rows a leaf has 20 at least, which is LightGBM's default
        num_leaves=15, max_bin=63, random_state=0, verbose=-1, deterministic=True, force_row_wise=True
    )
    np.testing.assert_allclose(ours.trees.outputs(X)[:, 0], theirs.fit(X, y).predict(X), atol=1e-6)
    several = [LightConfig(estimator="lightgbm", min_leaf_rows=rows) for rows in (None, 7)]
    least = [[_settings(each, 6, n)["min_data_in_leaf"] for n in (200, 1200, 9000)] for each in several]
    assert least == [[20, 30, 50], [7, 7, 7]]


def test_balance_lifts_the_rare() -> None:
    rare = np.stack([X[:, 0] + RNG.normal(size=240) > 1.8, X[:, 1] > 0], axis=1).astype(float)
    plain, lifted = (units(balance=cap).fit(X, rare, groups=GROUPS).predict_proba(X)[:, 0] for cap in (0.0, 21.0))
    assert lifted.mean() > 2 * plain.mean()
    capped = units(balance=1.0).fit(X, rare, groups=GROUPS)
    np.testing.assert_array_equal(capped.predict_proba(X)[:, 0], plain)


def test_values_are_learned_and_seeds_repeat() -> None:
    y = np.tanh(X[:, 0])
    first, second, other = (
        BoostedRegressor(n_estimators=30, min_leaf_rows=5, tree_columns=3, random_state=seed).fit(X, y, groups=GROUPS)
        for seed in (1, 1, 2)
    )
    assert first.score(X, y) > 0.8
    assert first.numbers_.texts == second.numbers_.texts
    assert first.numbers_.texts != other.numbers_.texts
    assert 1 <= first.best_iteration_ <= 30
    # The seed draws the trees' columns, too, not the fold alone.
    drawn = {
        BoostedRegressor(n_estimators=5, tree_columns=3, early_stopping_rounds=0, random_state=seed)
        .fit(X, y)
        .numbers_.texts
        for seed in (1, 2, 3)
    }
    assert len(drawn) == 3


def test_one_video_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="needs two of them; got 1"):
        units().fit(X, CLASSES, groups=np.zeros(240))
