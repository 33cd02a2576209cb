import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import ConfigError
from heads.calibration.folding import balanced_folds


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 400), min_size=2, max_size=30), n_folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_whole_videos_in_folds_of_about_as_many_rows(sizes: list[int], n_folds: int, seed: int) -> None:
    video = np.repeat(np.arange(len(sizes)) * 7, sizes)
    fold = balanced_folds(video, n_folds, seed=seed)
    for number in np.unique(video):
        assert len(set(fold[video == number])) == 1
    loads = np.bincount(fold)
    assert len(loads) == min(n_folds, len(sizes))
    assert loads.min() > 0
    assert loads.max() - loads.min() <= max(sizes)
    assert (fold == balanced_folds(video, n_folds, seed=seed)).all()


def test_the_seed_decides_between_equals() -> None:
    video = np.repeat(np.arange(12), 10)
    assert (balanced_folds(video, 3, seed=0) != balanced_folds(video, 3, seed=1)).any()


def test_one_video_cannot_be_judged() -> None:
    with pytest.raises(ConfigError, match=r"predictions of 1\. Give those of at least two videos"):
        balanced_folds(np.zeros(5, dtype=np.int64), 3, seed=0)
