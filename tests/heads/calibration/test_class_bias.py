import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.calibration.calibration import shift_logits
from heads.calibration.class_bias import GRIDS, _best_shift, fit_class_bias
from heads.scoring.metrics import f1_macro


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 80), seed=st.integers(0, 2**32 - 1))
def test_a_class_at_a_time_is_tried_exactly(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(8, n)) * 2, rng.integers(0, 8, n)
    bias, number = rng.normal(size=8), int(rng.integers(0, 8))
    grid = GRIDS[0]
    found = _best_shift(logits, targets, bias, number, grid)
    scores = []
    for shift in grid:
        tried = bias.copy()
        tried[number] = shift
        scores.append(f1_macro(targets, (logits + tried[:, None]).argmax(axis=0)))
    assert scores[list(grid).index(found)] == pytest.approx(max(scores), abs=1e-9)
    equals = grid[np.array(scores) >= max(scores) - 1e-9]
    assert abs(found - bias[number]) == np.abs(equals - bias[number]).min()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_it_never_lowers_the_score_that_it_is_fitted_by(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, targets = rng.dirichlet(np.full(8, 0.5), 150), rng.integers(0, 8, 150)
    bias = fit_class_bias(probabilities, targets)
    assert bias.mean() == pytest.approx(0, abs=1e-12)
    after = f1_macro(targets, shift_logits(probabilities, bias).argmax(axis=1))
    assert after >= f1_macro(targets, probabilities.argmax(axis=1)) - 1e-9


def test_nothing_to_gain_is_no_shift() -> None:
    targets = np.arange(80) % 8
    assert not fit_class_bias(np.eye(8)[targets] * 0.9 + 0.0125, targets).any()
    assert not fit_class_bias(np.empty((0, 8)), np.empty(0, dtype=np.int64)).any()


def test_shifted_probabilities() -> None:
    probabilities = np.array([[0.5, 0.5, 0, 0, 0, 0, 0, 0], [np.nan] * 8])
    bias = np.array([np.log(3), 0, 0, 0, 0, 0, 0, 0])
    got = shift_logits(probabilities, bias)
    assert got[0] == pytest.approx([0.75, 0.25, 0, 0, 0, 0, 0, 0], abs=1e-9)
    assert np.isnan(got[1]).all()
    # The shift is of the logits: a common one changes nothing.
    assert shift_logits(probabilities, bias + 2)[0] == pytest.approx(got[0])
