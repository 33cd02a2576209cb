import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import ConfigError, ShapeError
from featurestore.frames import FrameTable
from heads.features.windows import window_index


@st.composite
def segments_and_sizes(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    gaps = draw(st.lists(st.integers(0, 5), min_size=len(sizes), max_size=len(sizes)))
    stops = np.cumsum(np.array(sizes) + np.array(gaps))
    length = draw(st.integers(1, 25))
    return np.stack([stops - sizes, stops], axis=1), length, draw(st.integers(1, length))


@given(segments_and_sizes())
def test_properties(case: tuple[np.ndarray, int, int]) -> None:
    segments, length, step = case
    index = window_index(segments, length=length, step=step)
    inside = np.concatenate([np.arange(start, stop) for start, stop in segments])
    # Every row of every segment is covered, and nothing else.
    assert sorted(set(index.rows[index.mask].tolist())) == inside.tolist()
    for rows, mask in zip(index.rows, index.mask, strict=True):
        start, stop = next((a, b) for a, b in segments.tolist() if a <= rows[0] < b)
        assert (rows >= start).all()
        assert (rows < stop).all()
        n = int(mask.sum())
        assert 1 <= n <= length
        assert mask[:n].all()
        assert (np.diff(rows[:n]) == 1).all()
        assert (rows[n:] == stop - 1).all()
        assert n == min(length, stop - rows[0])
        assert (rows[0] - start) % step == 0
    if step == length:
        assert index.mask.sum() == len(inside)
    expected = sum(1 if n <= length else 1 + -(-(n - length) // step) for n in (segments[:, 1] - segments[:, 0]) if n)
    assert len(index) == expected


def test_windows_of_a_split_stay_in_its_videos(frames: FrameTable) -> None:
    index = window_index(frames.segments("val"), length=20, step=15)
    video = frames.video_ids()
    assert (video[index.rows] == video[index.rows[:, :1]]).all()
    assert set(np.unique(index.rows)) == set(frames.rows("val"))


def test_a_short_segment_has_one_padded_window() -> None:
    index = window_index(np.array([[4, 7]]), length=5, step=2)
    assert index.rows.tolist() == [[4, 5, 6, 6, 6]]
    assert index.mask.tolist() == [[True, True, True, False, False]]


def test_no_window_more_than_needed() -> None:
    index = window_index(np.array([[0, 10]]), length=5, step=5)
    assert index.rows.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert index.mask.all()
    assert len(index.take(np.array([True, False]))) == 1


def test_refusals() -> None:
    segments = np.array([[0, 9]])
    with pytest.raises(ConfigError, match="got W=6, S=5: rows between windows would be skipped"):
        window_index(segments, length=5, step=6)
    with pytest.raises(ConfigError, match=r"seq .* at least 1, got 0.* window .* at least 1, got 0"):
        window_index(segments, length=0, step=0)
    with pytest.raises(ShapeError, match=r"must have shape \(n, 2\)"):
        window_index(np.arange(4), length=2, step=1)
