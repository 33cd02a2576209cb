import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from featurestore.errors import ShapeError
from heads.scoring.metrics import (
    concordance_correlation,
    concordance_from_sums,
    f1_action_units,
    f1_macro,
    f1_per_class,
)

LENGTHS = st.integers(2, 60)
SEEDS = st.integers(0, 2**32 - 1)


@given(n=LENGTHS, seed=SEEDS, offset=st.floats(-0.5, 0.5), scale=st.floats(1e-3, 1))
def test_concordance_equals_lins_formula(n: int, seed: int, offset: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, n), offset + scale * rng.uniform(-1, 1, n)
    valid = rng.random(n) < 0.7
    valid[:2] = True
    covariance = np.cov(x[valid], y[valid], ddof=0)
    gap = x[valid].mean() - y[valid].mean()
    expected = 2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + gap**2)
    assert concordance_correlation(x, y, valid=valid) == pytest.approx(expected, abs=1e-9)


@given(n=LENGTHS, seed=SEEDS)
def test_concordance_from_sums_is_the_same(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, n), rng.uniform(-1, 1, n)
    sums = np.array([n, x.sum(), y.sum(), x @ x, y @ y, x @ y])
    assert concordance_from_sums(sums) == pytest.approx(concordance_correlation(x, y), abs=1e-9)


def test_concordance_is_invariant_to_common_shift_and_one_for_equals() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert concordance_correlation(x, x) == pytest.approx(1)
    centred = x - x.mean()
    assert concordance_correlation(centred, -centred) == pytest.approx(-1)
    assert concordance_correlation(x + 3, y + 3) == pytest.approx(concordance_correlation(x, y))
    assert concordance_correlation(x, y) == concordance_correlation(y, x)


@pytest.mark.parametrize("x", [np.full(9, 0.1), np.linspace(-1, 1, 9)])
def test_a_constant_has_no_concordance(x: np.ndarray) -> None:
    constant = np.full(9, 0.1)
    assert concordance_correlation(x, constant) == 0
    sums = np.array([9, x.sum(), constant.sum(), x @ x, constant @ constant, x @ constant])
    assert concordance_from_sums(sums) == 0
    assert concordance_from_sums(np.zeros((4, 6))).tolist() == [0, 0, 0, 0]


@given(
    pairs=hnp.arrays(np.int64, st.tuples(st.integers(1, 60), st.just(2)), elements=st.integers(0, 7)),
    seed=SEEDS,
)
def test_expressions_equal_scikit_learn(pairs: np.ndarray, seed: int) -> None:
    truth, guess = pairs.T
    valid = np.random.default_rng(seed).random(len(truth)) < 0.8
    expected = (
        f1_score(truth[valid], guess[valid], labels=range(8), average=None, zero_division=0)
        if valid.any()
        else np.zeros(8)
    )
    assert f1_per_class(truth, guess, valid=valid) == pytest.approx(expected, abs=1e-9)
    assert f1_macro(truth, guess, valid=valid) == pytest.approx(expected.mean(), abs=1e-9)


@settings(deadline=None, max_examples=20)  # twelve calls of scikit-learn each
@given(n=LENGTHS, seed=SEEDS, rate=st.floats(0, 1))
def test_action_units_equal_scikit_learn(n: int, seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    truth, guess, valid = rng.random((n, 12)) < rate, rng.random((n, 12)) < 0.5, rng.random((n, 12)) < 0.8
    valid[0] = True
    expected = [
        f1_score(truth[valid[:, unit], unit], guess[valid[:, unit], unit], zero_division=0) for unit in range(12)
    ]
    got = f1_action_units(truth.astype(np.float32), guess, valid=valid)
    assert got == pytest.approx(expected, abs=1e-9)


def test_absent_and_never_predicted_counts_zero() -> None:
    only = np.zeros(5, dtype=np.int64)
    assert f1_macro(only, only) == pytest.approx(1 / 8)
    assert f1_action_units(np.zeros((4, 2)), np.zeros((4, 2), dtype=bool)).tolist() == [0, 0]


def test_refusals() -> None:
    x = np.zeros(3)
    with pytest.raises(ShapeError, match="must agree in shape"):
        concordance_correlation(x, np.zeros(4))
    with pytest.raises(ShapeError, match="at least two valid frames, got 1 of 3"):
        concordance_correlation(x, x, valid=np.array([True, False, False]))
    with pytest.raises(ShapeError, match=r"Classes must lie in 0\.\.7, got up to 8"):
        f1_per_class(np.array([8]), np.array([0]))
    with pytest.raises(ShapeError, match="f1_action_units: target"):
        f1_action_units(np.zeros((3, 2)), np.zeros((3, 3), dtype=bool))
