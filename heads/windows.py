"""Windows of rows: length S, step W, never across a video's end.

A window is S consecutive rows of one segment (a run of rows of one video and one split); windows start every W
rows, as in the ABAW7 winner's system, and the last one reaches the segment's end. What sticks out over the
end repeats the segment's last row with ``mask = False``: it is padding for the shape's sake and no label is
ever invented for it. With W <= S every row lies in a window with ``mask = True``.

A window of rows is not a window of time: on s-Aff-Wild2 only 18.6 % of neighbouring rows are neighbouring
frames.
"""

from dataclasses import dataclass

import numpy as np

from featurestore.errors import ConfigError, ShapeError

from .arrays import BoolArray, IntArray


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

    def take(self, which: IntArray | BoolArray) -> "WindowIndex":
        """Some of the windows, by number or by mask."""
        return WindowIndex(self.rows[which], self.mask[which])


def window_index(segments: IntArray, *, length: int, step: int) -> WindowIndex:
    """All windows of some segments.

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
    mistakes = window_mistakes(length, step)
    if mistakes:
        raise ConfigError(" ".join(mistakes))
    if segments.ndim != 2 or segments.shape[1] != 2:
        raise ShapeError(f"Segments must have shape (n, 2), [start, stop) rows, got {segments.shape}.")
    first, stop = segments[:, 0], segments[:, 1]
    sizes = stop - first
    counts = np.where(sizes > 0, 1 + np.maximum(0, -(-(sizes - length) // step)), 0)
    segment = np.repeat(np.arange(len(segments)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first[segment] + within * step
    rows = starts[:, None] + np.arange(length)  # (n_windows, S), may run past the segment
    last = (stop - 1)[segment][:, None]
    return WindowIndex(np.minimum(rows, last).astype(np.int64), rows <= last)


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
