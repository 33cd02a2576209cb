import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurestore.errors import ConfigError, ShapeError
from featurestore.frames import FrameTable
from heads.features.windows import frame_window_index, window_index


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


@st.composite
def numbered_segments(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segments that follow each other, and ascending frame numbers in each."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    numbers, segments, start = [], [], 0
    for size in sizes:
        gaps = draw(st.lists(st.integers(1, 30), min_size=size, max_size=size))
        numbers += np.cumsum(gaps).tolist()
        segments.append((start, start + size))
        start += size
    return np.array(segments, dtype=np.int64), np.array(numbers, dtype=np.int64)


@given(given_segments=numbered_segments(), length=st.integers(1, 40), step=st.integers(1, 40))
def test_windows_of_frames_hold_what_lies_in_their_span(
    given_segments: tuple[NDArray[np.int64], NDArray[np.int64]], length: int, step: int
) -> None:
    segments, numbers = given_segments
    step = min(step, length)
    windows = frame_window_index(segments, numbers, length=length, step=step)
    assert windows.mask.any(axis=1).all()
    assert windows.mask.all(axis=1).any()  # no wider than the fullest one
    assert (np.diff(windows.mask.astype(int), axis=1) <= 0).all()  # padding at the end only
    covered = set()
    for rows, mask in zip(windows.rows, windows.mask, strict=True):
        held = rows[mask]
        start, stop = next((a, b) for a, b in segments.tolist() if a <= held[0] < b)
        assert start <= held[0]
        assert held[-1] < stop
        assert rows[~mask].tolist() == [held[-1]] * int((~mask).sum())
        assert numbers[held[-1]] - numbers[held[0]] < length
        # A window begins a multiple of W behind the segment's first frame, and holds all that lies in its span.
        begins = [
            first
            for first in range(int(numbers[start]), int(numbers[held[0]]) + 1, step)
            if [row for row in range(start, stop) if first <= numbers[row] < first + length] == held.tolist()
        ]
        assert begins
        covered |= set(held.tolist())
    assert covered == set(range(int(segments[-1, 1])))
    assert len({tuple(rows[mask].tolist()) for rows, mask in zip(windows.rows, windows.mask, strict=True)}) == len(
        windows
    )


def test_windows_of_frames_over_a_long_gap() -> None:
    segments = np.array([[0, 3], [3, 4]])
    windows = frame_window_index(segments, np.array([1, 2, 500, 7]), length=10, step=5)
    assert [rows[mask].tolist() for rows, mask in zip(windows.rows, windows.mask, strict=True)] == [[0, 1], [2], [3]]


def test_windows_of_frames_where_every_frame_has_a_row_are_windows_of_rows() -> None:
    segments = np.array([[0, 23], [23, 25]])
    numbers = np.concatenate([np.arange(1, 24), np.arange(4, 6)])
    by_frames = frame_window_index(segments, numbers, length=8, step=5)
    by_rows = window_index(segments, length=8, step=5)
    assert by_frames.mask.tolist() == by_rows.mask.tolist()
    assert by_frames.rows[by_frames.mask].tolist() == by_rows.rows[by_rows.mask].tolist()


def test_no_segments_make_no_windows_of_frames() -> None:
    assert len(frame_window_index(np.empty((0, 2), dtype=np.int64), np.empty(0, np.int64), length=4, step=4)) == 0
