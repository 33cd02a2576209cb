import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurestore.errors import ConfigError, ShapeError, UnknownNameError
from heads.calibration.smoothing import Smoothing

Array = NDArray[np.float64]
KINDS = (("box", 3.0), ("gaussian", 4.0), ("exp", 30.0))


def plainly(
    smoothing: Smoothing, values: Array, rows: NDArray[np.int64], video: NDArray[np.int64], frames: NDArray[np.int64]
) -> Array:
    """Row by row, by definition."""
    result = values.copy()
    known = ~np.isnan(values).any(axis=1)
    for i in np.flatnonzero(known):
        total, weights = np.zeros(values.shape[1]), 0.0
        for j in np.flatnonzero(known & (video == video[i]) & (abs(rows - rows[i]) <= smoothing.reach)):
            squared = float(frames[i] - frames[j]) ** 2
            weight = {
                "box": 1.0,
                "gaussian": np.exp(-squared / (2 * smoothing.width**2)),
                "exp": np.exp(-squared / smoothing.width),
            }[smoothing.kind]
            total, weights = total + weight * values[j], weights + weight
        result[i] = total / weights
    return result


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(KINDS), n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), clip=st.integers(1, 6))
def test_it_is_the_weighted_mean_by_definition(kind: tuple[str, float], n: int, seed: int, clip: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(3 * n, n, replace=False))
    video = np.sort(rng.integers(0, 4, n))
    frames = np.cumsum(rng.integers(1, 9, n))
    values = rng.uniform(-1, 1, (n, 3))
    values[rng.random(n) < 0.2] = np.nan
    smoothing = Smoothing(kind=kind[0], width=kind[1], clip_rows=clip)
    got = smoothing.apply(values, rows=rows, video=video, frames=frames)
    np.testing.assert_allclose(got, plainly(smoothing, values, rows, video, frames), atol=1e-12)
    column = smoothing.apply(values[:, 0], rows=rows, video=video, frames=frames)
    np.testing.assert_array_equal(column, got[:, 0])


@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_other_videos_change_nothing_not_even_the_last_bit(kind: str, width: float) -> None:
    rng = np.random.default_rng(0)
    values, rows, frames = rng.dirichlet(np.ones(8), 90), np.arange(90), np.tile(np.arange(30) * 3, 3)
    video = np.repeat([0, 1, 2], 30)
    smoothing = Smoothing(kind=kind, width=width, clip_rows=5)
    whole = smoothing.apply(values, rows=rows, video=video, frames=frames)
    shuffled = values.copy()
    shuffled[60:] = rng.permutation(values[60:])
    shuffled[:30] = rng.permutation(values[:30])
    other = smoothing.apply(shuffled, rows=rows, video=video, frames=frames)
    assert (other[30:60] == whole[30:60]).all()
    assert (other[:30] != whole[:30]).any()
    alone = smoothing.apply(values[30:60], rows=rows[30:60], video=video[30:60], frames=frames[30:60])
    assert (alone == whole[30:60]).all()
    assert whole.sum(axis=1) == pytest.approx(1)


def test_a_box_counts_rows_and_the_others_frames() -> None:
    values, rows, video = np.array([0.0, 1.0, 0.0]), np.arange(3), np.zeros(3, dtype=np.int64)
    near, far = np.array([10, 11, 12]), np.array([10, 11, 500])
    for kind, width in (("gaussian", 2.0), ("exp", 4.0)):
        smoothing = Smoothing(kind=kind, width=width, clip_rows=2)
        one, other = (smoothing.apply(values, rows=rows, video=video, frames=frames) for frames in (near, far))
        assert one[2] > 0.1
        assert other[2] == pytest.approx(0, abs=1e-12)
        assert other[0] > one[0] - 0.1
    box = Smoothing(kind="box", width=1, clip_rows=1)
    for frames in (near, far):
        assert box.apply(values, rows=rows, video=video, frames=frames) == pytest.approx([1 / 2, 1 / 3, 1 / 2])
    # Row 1 is not there: rows 0 and 2 are two apart.
    assert box.apply(values[::2], rows=rows[::2], video=video[::2], frames=near[::2]).tolist() == [0, 0]


def test_a_row_without_prediction_weighs_nothing_and_stays() -> None:
    values = np.array([0.2, np.nan, 0.4])
    got = Smoothing(kind="box", width=2, clip_rows=1).apply(
        values, rows=np.arange(3), video=np.zeros(3, dtype=np.int64), frames=np.arange(3)
    )
    assert got == pytest.approx([0.3, np.nan, 0.3], nan_ok=True)


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match=r"There is no smoothing 'none'"):
        Smoothing(kind="none", width=1, clip_rows=1)
    for width, clip in ((0.0, 1), (np.inf, 1), (1.0, 0)):
        with pytest.raises(ConfigError, match=r"a width above 0 and at least 1 row to either side"):
            Smoothing(kind="box", width=width, clip_rows=clip)
    box = Smoothing(kind="box", width=1, clip_rows=1)
    numbers = np.array([1, 0])
    with pytest.raises(ShapeError, match=r"Rows must ascend to be smoothed"):
        box.apply(np.zeros(2), rows=numbers, video=numbers, frames=numbers)
