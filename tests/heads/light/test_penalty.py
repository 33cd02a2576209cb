"""The penalty that folds of clips choose is the one that scikit-learn's models, fold by fold, are best at."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from heads.calibration.folding import balanced_folds
from heads.light.config import LightConfig
from heads.light.layers import Layers
from heads.light.learners import make_learner
from heads.light.penalty import (
    ALONE,
    GRID,
    MOST_ROWS,
    N_FOLDS,
    choose_penalty,
    concordance,
    macro_f1,
    unit_f1,
)

Array = NDArray[np.float64]
CPU = torch.device("cpu")
N_CLIPS, CLIP_ROWS = 12, 20


def best_threshold_f1(labels: Array, values: Array) -> float:
    """The F1 at the best of all thresholds, each tried."""
    valid = ~np.isnan(labels)
    labels, values = labels[valid].astype(int), values[valid]
    return max(float(f1_score(labels, values >= threshold)) for threshold in np.unique(values))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 0.5))
def test_unit_f1_is_that_of_the_best_threshold_and_of_0(n: int, seed: int, share: float, unlabelled: float) -> None:
    rng = np.random.default_rng(seed)
    units = (rng.random((n, 3)) < share).astype(np.float64)
    units[rng.random((n, 3)) < unlabelled] = np.nan
    outputs = rng.permuted(np.arange(3.0 * n).reshape(3, n), axis=1).T - rng.integers(-1, 3 * n + 1)  # no two alike
    active = [unit for unit in range(3) if np.nansum(units[:, unit])]
    best = [best_threshold_f1(units[:, unit], outputs[:, unit]) for unit in active]
    labelled = [~np.isnan(units[:, unit]) for unit in active]
    at_0 = [
        f1_score(units[rows, unit].astype(int), outputs[rows, unit] > 0, zero_division=0)
        for unit, rows in zip(active, labelled, strict=True)
    ]
    assert unit_f1(units, outputs) == pytest.approx((np.mean(best) + np.mean(at_0)) / 2 if active else 0.0)


def test_unit_f1_parts_no_rows_that_are_alike() -> None:
    labels = np.array([1.0, 1, 0, 0, 0, 0])
    expected = (best_threshold_f1(labels, np.zeros(6)) + 0) / 2  # nothing is above 0
    assert unit_f1(labels[:, None], np.zeros((6, 1))) == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(8, 60), st.integers(0, 2**32 - 1))
def test_macro_f1_is_scikit_learns(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = np.append(np.arange(5), rng.integers(0, 5, n))  # each comes
    outputs = rng.normal(size=(len(classes), 5)) + 2 * np.eye(5)[classes] * rng.random()
    expected = f1_score(classes, outputs.argmax(axis=1), average="macro")
    assert macro_f1(classes, outputs) == pytest.approx(expected)


def test_concordance_is_lins() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, 50)
    outputs = 0.5 * values + 0.2 * rng.normal(size=50)
    covariance = ((values - values.mean()) * (outputs - outputs.mean())).mean()
    expected = 2 * covariance / (values.var() + outputs.var() + (values.mean() - outputs.mean()) ** 2)
    assert np.abs(outputs).max() < 1
    assert concordance(values, outputs[:, None]) == pytest.approx(expected, abs=1e-9)
    assert concordance(values, 1e3 * outputs[:, None]) == concordance(values, np.sign(outputs)[:, None])
    assert concordance(values, np.zeros((50, 1))) == 0


@pytest.fixture(scope="module")
def problem() -> tuple[NDArray[np.float32], NDArray[np.int64], Array]:
    """Inputs, clips and a hidden number: four columns of 120 tell it, and each clip has a way of its own."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(N_CLIPS), CLIP_ROWS)
    X = rng.normal(size=(len(groups), 120))
    number = X[:, :4].sum(axis=1) / 2 + rng.normal(size=len(groups))
    X += 0.3 * rng.normal(size=(N_CLIPS, 120))[groups]
    order = rng.permutation(len(groups))
    return X[order].astype(np.float32), groups[order], number[order]


ESTIMATORS: dict[str, Callable[[float], object]] = {
    "logistic": lambda C: LogisticRegression(C=C, max_iter=1000),
    "ridge": lambda C: RidgeClassifier(alpha=1 / C),
}


def out_of_fold(model: object, X: NDArray[np.float32], y: Array, groups: NDArray[np.int64]) -> Array:
    """What models that did not see its clip say of each row, by scikit-learn."""
    folds = PredefinedSplit(balanced_folds(groups, N_FOLDS, seed=1))
    method = "predict" if isinstance(model, Ridge) else "decision_function"
    found: Array = cross_val_predict(clone(model), X, y, cv=folds, method=method)
    return found


def chosen(scores: list[float]) -> float:
    """The best C, where one is better than the others."""
    assert np.diff(sorted(scores))[-1] > 1e-4
    assert max(scores) - min(scores) > 0.02  # regularisation matters
    return GRID[int(np.argmax(scores))]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_units_have_the_penalty_of_a_brute_force(
    estimator: str, problem: tuple[NDArray[np.float32], NDArray[np.int64], Array]
) -> None:
    X, groups, number = problem
    units = np.column_stack([number > 0, number > 1]).astype(np.float64)
    learner = make_learner(LightConfig(estimator=estimator), X, CPU)
    found = learner.units(np.arange(len(X)), units, np.ones_like(units), groups)
    scores = []
    for C in GRID:
        outputs = [out_of_fold(ESTIMATORS[estimator](C), X, unit, groups) for unit in units.T]
        pairs = list(zip(units.T, outputs, strict=True))
        scores.append(np.mean([(best_threshold_f1(*pair) + f1_score(pair[0], pair[1] > 0)) / 2 for pair in pairs]))
    assert chosen(scores) == found.C
    whole = ESTIMATORS[estimator](found.C).fit(X, units[:, 1])  # type: ignore[attr-defined]
    assert isinstance(found.numbers, Layers)
    assert found.numbers.weights[0][1] == pytest.approx(np.ravel(whole.coef_), abs=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_classes_have_the_penalty_of_a_brute_force(
    estimator: str, problem: tuple[NDArray[np.float32], NDArray[np.int64], Array]
) -> None:
    X, groups, number = problem
    classes = np.digitize(number, (-1.0, 0.2, 1.0))
    learner = make_learner(LightConfig(estimator=estimator), X, CPU)
    found = learner.classes(np.arange(len(X)), classes, np.ones(len(X)), groups)
    scores = []
    for C in GRID:
        outputs = out_of_fold(ESTIMATORS[estimator](C), X, classes, groups)
        scores.append(float(f1_score(classes, outputs.argmax(axis=1), average="macro")))
    assert chosen(scores) == found.C


def test_values_have_the_penalty_of_a_brute_force(
    problem: tuple[NDArray[np.float32], NDArray[np.int64], Array],
) -> None:
    X, groups, number = problem
    values = np.tanh(number / 3)
    found = make_learner(LightConfig(estimator="ridge"), X, CPU).values(np.arange(len(X)), values, groups)
    scores = []
    for C in GRID:
        outputs = out_of_fold(Ridge(alpha=1 / C), X, values, groups)
        covariance = ((values - values.mean()) * (outputs - outputs.mean())).mean()
        scores.append(2 * covariance / (values.var() + outputs.var() + (values.mean() - outputs.mean()) ** 2))
    assert chosen(scores) == found.C


def test_a_penalty_that_is_given_is_kept(problem: tuple[NDArray[np.float32], NDArray[np.int64], Array]) -> None:
    X, groups, number = problem
    learner = make_learner(LightConfig(estimator="ridge", C=0.03), X, CPU)
    found = learner.values(np.arange(len(X)), number, groups)
    assert found.C == 0.03
    assert isinstance(found.numbers, Layers)
    assert found.numbers.weights[0][0] == pytest.approx(Ridge(alpha=1 / 0.03).fit(X, number).coef_, abs=1e-6)


class Recorder:
    """A solver that says what it was asked for."""

    def __init__(self, best: float) -> None:
        self.best = best
        self.learned: list[tuple[NDArray[np.int64], float]] = []
        self.judged: list[NDArray[np.int64]] = []
        self._C = 0.0

    def solve(self, places: NDArray[np.int64], C: float) -> Layers:
        self.learned.append((places, C))
        return Layers.linear(np.zeros((1, 1)), np.full(1, C))

    def predict(self, layers: Layers, places: NDArray[np.int64]) -> Array:
        self.judged.append(places)
        return np.full((len(places), 1), layers.biases[0][0])

    def score(self, places: NDArray[np.int64], outputs: Array) -> float:
        assert len(places) == len(outputs)
        (C,) = np.unique(outputs)
        return -abs(float(C) - self.best)


def test_no_clip_stands_on_both_sides() -> None:
    groups = np.random.default_rng(0).integers(0, 7, 200) * 11
    recorder = Recorder(best=0.01)
    assert choose_penalty(groups, recorder.solve, recorder.predict, recorder.score, seed=0) == 0.01
    assert [C for _, C in recorder.learned] == [C for C in GRID for _ in range(N_FOLDS)]
    for (learned, _), judged in zip(recorder.learned, recorder.judged, strict=True):
        assert not set(groups[learned]) & set(groups[judged])
        assert sorted([*learned, *judged]) == list(range(200))
    for first in range(0, len(recorder.judged), N_FOLDS):  # with each C every row is judged once
        assert sorted(np.concatenate(recorder.judged[first : first + N_FOLDS])) == list(range(200))


def test_a_sample_of_large_data_holds_whole_clips() -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(60), np.arange(60) * 10 + 5))
    assert len(groups) > 4 * MOST_ROWS
    seen = []
    for seed in (1, 2):
        recorder = Recorder(best=1.0)
        assert choose_penalty(groups, recorder.solve, recorder.predict, recorder.score, seed=seed) == 1.0
        places = np.unique(np.concatenate(recorder.judged))
        assert MOST_ROWS / 2 < len(places) <= MOST_ROWS
        taken = np.unique(groups[places])
        assert places.tolist() == np.flatnonzero(np.isin(groups, taken)).tolist()
        seen.append(set(taken.tolist()))
    assert seen[0] != seen[1]
    two = np.repeat([3, 8], MOST_ROWS)  # one alone could not be judged
    recorder = Recorder(best=0.1)
    assert choose_penalty(two, recorder.solve, recorder.predict, recorder.score, seed=0) == 0.1
    assert {len(judged) for judged in recorder.judged} == {MOST_ROWS}


def test_one_clip_decides_nothing() -> None:
    recorder = Recorder(best=0.1)
    assert choose_penalty(np.zeros(9, dtype=np.int64), recorder.solve, recorder.predict, recorder.score, seed=0) == 1.0
    assert recorder.learned == []
    assert ALONE == 1.0
    assert all(lower < higher for lower, higher in pairwise(GRID))
