import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import ShapeError
from heads.light.holdout import hold_out


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=20), share=st.floats(0.05, 0.9), seed=st.integers(0, 99))
def test_whole_groups_are_held_out_and_never_all(sizes: list[int], share: float, seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 7, sizes))
    held = hold_out(groups, share, seed=seed)
    assert 0 < held.sum() < len(groups)
    assert not set(groups[held]) & set(groups[~held])
    # No other number of groups in the drawn order would be nearer than by half of the largest group.
    bounded = share * len(groups) <= len(groups) - max(sizes)
    assert not bounded or abs(held.sum() - share * len(groups)) <= max(sizes)
    assert (hold_out(groups, share, seed=seed) == held).all()


def test_the_seed_draws() -> None:
    groups = np.repeat(np.arange(20), 5)
    folds = {hold_out(groups, 0.15, seed=seed).tobytes() for seed in range(8)}
    assert len(folds) > 5


def test_one_group_cannot_be_held_out() -> None:
    with pytest.raises(ShapeError, match=r"needs two of them; got 1 with n_samples=3.*early_stopping_rounds=0"):
        hold_out(np.zeros(3, dtype=np.int64), 0.2, seed=0)
