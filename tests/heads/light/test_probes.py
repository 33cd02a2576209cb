import numpy as np
import pytest
import torch

from featurestore.errors import PrecisionError
from heads.light.probes import ProbeClassifier, ProbeRegressor
from heads.scoring.metrics import concordance_correlation

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6)).astype(np.float32)
GROUPS = np.repeat(np.arange(12), 20)
UNITS = np.stack([X[:, 0] > 0, X[:, 1] + X[:, 2] > 0.5], axis=1).astype(np.float64)
FAST = {"learning_rate": 0.05, "epochs": 30, "random_state": 1}


def test_units_are_learned_and_what_is_unlabelled_has_no_part() -> None:
    hidden = RNG.random(UNITS.shape) < 0.3
    hidden[:, 1] = hidden[:, 0]  # of one fold: else the rows that both may hold out differ
    fits = [
        ProbeClassifier(**FAST).fit(X, np.where(hidden, mark, UNITS), groups=GROUPS)  # type: ignore[arg-type]
        for mark in (np.nan, -1, -5)
    ]
    assert all(np.array_equal(fits[0].numbers_.weights[0], each.numbers_.weights[0]) for each in fits)
    assert (fits[0].predict(X) == UNITS).mean() > 0.9
    full = ProbeClassifier(**FAST).fit(X, UNITS, groups=GROUPS)  # type: ignore[arg-type]
    assert not np.array_equal(full.numbers_.weights[0], fits[0].numbers_.weights[0])


def test_layers_tell_what_a_line_cannot() -> None:
    y = (X[:, 0] > 0) ^ (X[:, 1] > 0)
    line = ProbeClassifier(**FAST).fit(X, y, groups=GROUPS)  # type: ignore[arg-type]
    network = ProbeClassifier(**FAST, hidden=(32,), dropout=0.0).fit(X, y, groups=GROUPS)  # type: ignore[arg-type]
    assert line.score(X, y) < 0.7
    assert network.score(X, y) > 0.85
    assert [each.shape for each in network.numbers_.weights] == [(32, 6), (2, 32)]
    assert network.numbers_.n_parameters() == 6 * 32 + 32 + 2 * 32 + 2


def test_a_fit_begins_with_what_is_known_of_no_row() -> None:
    rare = np.stack([X[:, 0] > 1.8, X[:, 1] > 0], axis=1).astype(float)
    still = {"learning_rate": 1e-9, "epochs": 1, "early_stopping_rounds": 0}
    units = ProbeClassifier(**still).fit(X, rare).predict_proba(X)  # type: ignore[arg-type]
    np.testing.assert_allclose(units, np.broadcast_to(rare.mean(axis=0), units.shape), atol=3e-3)
    classes = np.digitize(X[:, 0], [-1.5, 1])
    shares = ProbeClassifier(**still).fit(X, classes).predict_proba(X)  # type: ignore[arg-type]
    np.testing.assert_allclose(shares, np.broadcast_to(np.bincount(classes) / 240, shares.shape), atol=1e-5)


def test_the_best_epoch_is_kept() -> None:
    noise = RNG.random(240) > 0.5  # there is nothing to learn: the first epochs are the best
    fitted = ProbeClassifier(
        learning_rate=0.05, epochs=60, early_stopping_rounds=4, hidden=(64,), random_state=1, dropout=0.0
    ).fit(X, noise, groups=GROUPS)
    assert fitted.best_iteration_ < 20
    kept = ProbeClassifier(
        learning_rate=0.05,
        epochs=fitted.best_iteration_,
        early_stopping_rounds=4,
        hidden=(64,),
        random_state=1,
        dropout=0.0,
    ).fit(X, noise, groups=GROUPS)
    assert np.array_equal(kept.decision_function(X), fitted.decision_function(X))


def test_layers_are_refitted_for_no_fewer_steps_than_the_least() -> None:
    noise = np.random.default_rng(4).random(240) > 0.5  # the first epochs are the best on the fold
    asked = {"learning_rate": 0.05, "hidden": (64,), "batch_rows": 24, "random_state": 1, "refit": True}
    fitted = ProbeClassifier(**asked).fit(X, noise, groups=GROUPS)  # type: ignore[arg-type]
    assert fitted.best_iteration_ == 100  # of 10 steps
    short = ProbeClassifier(**asked, epochs=60).fit(X, noise, groups=GROUPS)  # type: ignore[arg-type]
    assert short.best_iteration_ == 60  # at most as many as are asked for
    values = ProbeRegressor(**asked).fit(X, noise.astype(float), groups=GROUPS)  # type: ignore[arg-type]
    assert values.best_iteration_ == 50


def test_ccc_keeps_the_spread_that_least_squares_gives_up() -> None:
    y = X[:, 0] + 2 * RNG.normal(size=240)  # mostly noise
    scores, spreads = [], []
    for loss in ("ccc", "mse"):
        fitted = ProbeRegressor(**FAST, loss=loss).fit(X, y, groups=GROUPS)  # type: ignore[arg-type]
        predicted = fitted.predict(X)
        scores.append(concordance_correlation(y, predicted))
        spreads.append(predicted.std() / y.std())
    assert scores[0] > scores[1]
    assert spreads[0] > 1.3 * spreads[1]


def test_seeds_repeat_and_leave_torchs_generator_alone() -> None:
    y = X[:, 0]
    before = torch.random.get_rng_state()
    first = ProbeRegressor(hidden=(8,), random_state=1, epochs=3).fit(X, y)
    assert torch.equal(torch.random.get_rng_state(), before)
    second = ProbeRegressor(hidden=(8,), random_state=1, epochs=3).fit(X, y)
    other = ProbeRegressor(hidden=(8,), random_state=2, epochs=3).fit(X, y)
    assert np.array_equal(first.predict(X), second.predict(X))
    assert not np.array_equal(first.predict(X), other.predict(X))
    # With one batch of all rows there is no order left to draw: the weights are drawn, too.
    drawn = [
        ProbeRegressor(hidden=(8,), dropout=0.0, random_state=seed, epochs=1, early_stopping_rounds=0).fit(X, y)
        for seed in (1, 2)
    ]
    assert np.abs(drawn[0].predict(X) - drawn[1].predict(X)).max() > 0.01


def test_what_runs_away_is_said() -> None:
    with pytest.raises(PrecisionError, match="became infinite"):
        ProbeRegressor(learning_rate=1e38, epochs=3, loss="mse", random_state=1).fit(X, X[:, 0])
