"""Windows of which most is padding: read as long as they are, every one of them."""

import numpy as np
import torch

from featurestore.store import FeatureStore
from heads.features.featureset import FeatureSet
from heads.features.windows import WindowIndex


def sparse_windows(n_frames: int, n_windows: int = 200, longest: int = 30) -> WindowIndex:
    """Mostly short windows, as those of frames are where frames are missing."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(1 + rng.exponential(5, n_windows).astype(np.int64), longest)
    lengths[7] = longest
    starts = rng.integers(0, n_frames - longest, n_windows)
    places = np.arange(longest)
    rows = starts[:, None] + np.minimum(places, lengths[:, None] - 1)
    return WindowIndex(rows, places < lengths[:, None])


def test_batches_are_as_long_as_their_longest_window(store: FeatureStore) -> None:
    features = FeatureSet.load(store, ("mae",), device="cpu")
    windows = sparse_windows(len(store.frames))
    given = features.windows(("mae",), windows.rows, batch_windows=6, seed=1, lengths=windows.lengths)
    orders, n_read = [], []
    for batches in (given.epoch(), given.epoch(), given.in_order()):
        picked, n_rows = [], 0
        for batch in batches:
            numbers = batch.picked.numpy()
            length = windows.lengths[numbers].max()
            assert torch.equal(batch.rows, torch.from_numpy(windows.rows[numbers, :length]))
            assert np.array_equal(batch.inputs[0].numpy(), store.embedding("mae").gather(batch.rows.numpy()))
            assert len(numbers) == min(6, len(windows) - len(picked))  # only the last batch is smaller
            picked += numbers.tolist()
            n_rows += batch.rows.numel()
        assert sorted(picked) == list(range(len(windows)))
        orders.append(picked)
        n_read.append(n_rows)
    assert orders[0] != orders[1]
    assert orders[2] == sorted(orders[2])
    assert max(n_read[:2]) < 1.5 * windows.mask.sum() < 0.5 * windows.rows.size


def test_hardly_padded_windows_are_left_as_they_are(store: FeatureStore) -> None:
    features = FeatureSet.load(store, ("mae",), device="cpu")
    windows = sparse_windows(len(store.frames), longest=3)
    assert 0.75 < windows.mask.mean() < 1
    batches = features.windows(("mae",), windows.rows, batch_windows=6, seed=1, lengths=windows.lengths).epoch()
    assert all(batch.rows.shape[1] == 3 for batch in batches)
