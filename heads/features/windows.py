"""Windows of a video: length S, step W, in rows or in frames of the source, never across a video's end.

A window lies in one segment (a run of rows of one video and one split). Counted in rows, as in the ABAW7 winner's
system, it is S consecutive rows; windows start every W rows, and the last one reaches the segment's end. What sticks
out over the end repeats the segment's last row with ``mask = False``: it is padding for the shape's sake and no label
is ever invented for it. With W <= S every row lies in a window with ``mask = True``.

A window of rows is not a window of time: on s-Aff-Wild2 only 18.6 % of neighbouring rows are neighbouring frames.
Counted in frames, a window holds the rows whose frame numbers lie in [f, f + S), however many these are, and windows
start W frames apart, wherever there is a row; the shape is that of the fullest one, the rest is padding, which readers
leave out of a batch as far as its own fullest window allows (see `heads.features.loaded`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from featurestore.errors import ConfigError, ShapeError
from heads.arrays import BoolArray, IntArray

SPANS: Final = ("rows", "frames")
"""What S and W may count."""


@dataclass(frozen=True, slots=True)
class WindowIndex:
    """Row numbers of windows.

    Attributes
    ----------
    rows : shape (n_windows, S), int64
    mask : shape (n_windows, S), bool
        False is padding. Padding lies at a window's end only.
    """

    rows: IntArray
    mask: BoolArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def length(self) -> int:
        """Rows of a window, padding included."""
        return int(self.rows.shape[1])

    @property
    def lengths(self) -> IntArray:
        """How many rows of each are no padding, shape (n_windows,)."""
        return np.asarray(self.mask.sum(axis=1), dtype=np.int64)

    def take(self, which: IntArray | BoolArray) -> "WindowIndex":
        """Some of the windows, by number or by mask."""
        return WindowIndex(self.rows[which], self.mask[which])


def window_index(segments: IntArray, *, length: int, step: int) -> WindowIndex:
    """All windows of some segments, counted in rows.

    Parameters
    ----------
    segments : shape (n_segments, 2), int64
        [start, stop) rows, as `FrameTable.segments` gives them; empty ones are skipped.
    length
        S, rows in a window.
    step
        W, rows from one window's start to the next one's.

    Returns
    -------
    WindowIndex
        In the order of segments and starts. A segment of n rows has one window if n <= S, otherwise
        1 + ceil((n - S) / W).

    Raises
    ------
    ConfigError
        If S or W is below 1, or W is above S (rows between windows would never be seen).
    """
    _check(segments, length, step)
    first, stop = segments[:, 0], segments[:, 1]
    sizes = stop - first
    counts = np.where(sizes > 0, 1 + np.maximum(0, -(-(sizes - length) // step)), 0)
    segment, within = _numbered(counts)
    starts = first[segment] + within * step
    rows = starts[:, None] + np.arange(length)  # (n_windows, S), may run past the segment
    last = (stop - 1)[segment][:, None]
    return WindowIndex(np.minimum(rows, last).astype(np.int64), rows <= last)


def frame_window_index(segments: IntArray, frame_numbers: IntArray, *, length: int, step: int) -> WindowIndex:
    """All windows of some segments, counted in frames of the source video.

    Parameters
    ----------
    segments : shape (n_segments, 2), int64
        As in `window_index`.
    frame_numbers : shape (n_frames,), int64
        Of every row of the table, ascending within a segment.
    length, step
        S and W, in frames.

    Returns
    -------
    WindowIndex
        In the order of segments and starts; windows start at multiples of W from a segment's first frame, and one
        that holds no row that the window before it did not hold is left out.

    Raises
    ------
    ConfigError
        As `window_index` does.
    """
    _check(segments, length, step)
    first, stop = segments[:, 0], segments[:, 1]
    filled = np.flatnonzero(stop > first)
    spans = frame_numbers[stop[filled] - 1] - frame_numbers[first[filled]] + 1
    counts = np.zeros(len(segments), dtype=np.int64)
    counts[filled] = 1 + np.maximum(0, -(-(spans - length) // step))
    segment, within = _numbered(counts)
    begins = frame_numbers[first[segment]] + within * step  # the windows' first frames
    # One sorted key for all segments: a frame number is unique in its segment only.
    key_of = np.zeros(len(frame_numbers), dtype=np.int64)
    width = int(frame_numbers.max(initial=0)) + length + step + 1
    for number, (start, end) in enumerate(segments.tolist()):
        key_of[start:end] = number * width + frame_numbers[start:end]
    covered = np.concatenate([np.arange(start, end) for start, end in segments.tolist()] or [np.empty(0, np.int64)])
    keys = key_of[covered]
    lows = np.searchsorted(keys, segment * width + begins)
    highs = np.searchsorted(keys, segment * width + begins + length)
    # A gap longer than W leaves windows that hold nothing new.
    new = highs > np.concatenate([[-1], np.where(np.diff(segment) == 0, highs[:-1], -1)])[: len(highs)]
    lows, highs = lows[new & (highs > lows)], highs[new & (highs > lows)]
    longest = int((highs - lows).max(initial=1))
    places = lows[:, None] + np.arange(longest)  # (n_windows, S)
    mask = places < highs[:, None]
    rows = covered[np.minimum(places, (highs - 1)[:, None])] if len(lows) else np.empty((0, longest), dtype=np.int64)
    return WindowIndex(rows.astype(np.int64), mask)


def window_mistakes(length: int, step: int) -> list[str]:
    """What is wrong with S and W, in sentences; empty if nothing is."""
    mistakes = []
    if length < 1:
        mistakes.append(f"seq (S, rows in a window) must be at least 1, got {length}.")
    if step < 1:
        mistakes.append(f"window (W, rows between starts) must be at least 1, got {step}.")
    if not mistakes and step > length:
        mistakes.append(
            f"window (W) must be at most seq (S), got W={step}, S={length}: rows between windows would be skipped."
        )
    return mistakes


def _numbered(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Segment of each window, and its number in that segment."""
    segment = np.repeat(np.arange(len(counts)), counts)
    return segment, np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _check(segments: IntArray, length: int, step: int) -> None:
    mistakes = window_mistakes(length, step)
    if mistakes:
        raise ConfigError(" ".join(mistakes))
    if segments.ndim != 2 or segments.shape[1] != 2:
        raise ShapeError(f"Segments must have shape (n, 2), [start, stop) rows, got {segments.shape}.")
