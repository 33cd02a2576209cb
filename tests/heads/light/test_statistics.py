import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from heads.arrays import BoolArray
from heads.light.statistics import STATISTICS, window_statistics


def naive(values: NDArray[np.float64], usable: BoolArray, half: int) -> NDArray[np.float64]:
    """Of the usable rows."""
    rows = []
    for i in np.flatnonzero(usable):
        low, high = max(0, i - half), i + half + 1
        window = values[low:high][usable[low:high]]
        rows.append([window.mean(0), window.std(0), window.min(0), window.max(0), values[i] - window.mean(0)])
    return np.array(rows).reshape(usable.sum(), 5 * values.shape[1])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_a_naive_computation(data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 25)), data.draw(st.integers(1, 3))
    values = data.draw(hnp.arrays(np.float64, (n, k), elements=st.floats(-100, 100, width=32)))
    usable = data.draw(hnp.arrays(np.bool_, n))
    halves = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=2, unique=True))
    made = window_statistics(np.where(usable[:, None], values, 1e6), usable, halves)
    assert made.dtype == np.float32
    assert made.shape == (n, len(STATISTICS) * k * len(halves))
    assert np.isfinite(made).all()
    rows = np.flatnonzero(usable)
    for number, half in enumerate(halves):
        piece = made[:, number * 5 * k : (number + 1) * 5 * k]
        # Squares of 100 are summed: a spread below a thousandth is beyond them.
        np.testing.assert_allclose(piece[rows], naive(values, usable, half), rtol=1e-5, atol=2e-3)


def test_a_constant_window_has_no_spread() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full((50, 1), 0.1), rng.normal(size=(50, 1))])
    made = window_statistics(values, np.ones(100, dtype=np.bool_), (3,))
    assert (made[:40, 1] == 0).all()
    assert (made[60:, 1] > 0.1).all()


@pytest.mark.filterwarnings("error")
def test_no_usable_row_gives_numbers_all_the_same() -> None:
    made = window_statistics(np.zeros((4, 2)), np.zeros(4, dtype=np.bool_), (1,))
    assert np.isfinite(made).all()
