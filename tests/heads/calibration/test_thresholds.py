import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from heads.calibration.thresholds import best_thresholds, threshold_counts
from heads.scoring.metrics import binary_counts, f1_action_units

GRID = (0.2, 0.35, 0.5, 0.8)


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_counts_at_every_threshold_are_those_of_deciding_by_it(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.random((n, 3)), 2)  # some lie on the grid
    targets, valid, fold = rng.random((n, 3)) < 0.4, rng.random((n, 3)) < 0.8, rng.integers(0, 2, n)
    counts = threshold_counts(probabilities, targets, valid, fold, grid=GRID, n_folds=2)
    assert counts.shape == (2, 3, 3, len(GRID))
    for number in range(2):
        here = fold == number
        for place, threshold in enumerate(GRID):
            expected = binary_counts(targets[here], probabilities[here] > threshold, valid[here])
            assert (counts[number, :, :, place] == expected.T).all()
    best = best_thresholds(counts.sum(axis=0), GRID)
    scores = np.array([f1_action_units(targets, probabilities > limit, valid=valid) for limit in GRID])
    for unit in range(3):
        equals = np.flatnonzero(scores[:, unit] == scores[:, unit].max())
        assert best[unit] in equals
        assert abs(GRID[best[unit]] - 0.5) == min(abs(GRID[place] - 0.5) for place in equals)
