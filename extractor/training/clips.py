"""Clips to fine-tune on: short windows of a task's labelled rows.

Frames of a clip are neighbours in the list of labelled rows of one video, and share one draw of the augmentation.
"""

import numpy as np
from numpy.typing import NDArray

from featurestore.frames import FrameTable
from heads.features.targets import Targets
from heads.features.windows import WindowIndex, window_index


def labelled_mask(targets: Targets, tasks: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which frames carry a label of at least one of the tasks, shape (n_frames,)."""
    mask: NDArray[np.bool_] = np.logical_or.reduce([targets.labelled(task) for task in tasks])
    return mask


def labelled_clips(
    frames: FrameTable, targets: Targets, tasks: tuple[str, ...], *, split: str, length: int
) -> WindowIndex:
    """All clips of a split's rows that carry a label of at least one task.

    Parameters
    ----------
    frames, targets
        The table and its labels.
    tasks
        Task names.
    split
        ``"train"``, ``"val"``.
    length
        Frames in a clip; the last clip of a video is padded with its last row, masked.

    Returns
    -------
    WindowIndex
        Rows of the table (n_clips, length), and which of them are no padding.
    """
    labelled = labelled_mask(targets, tasks)
    chosen: list[NDArray[np.int64]] = []
    segments: list[tuple[int, int]] = []  # in the list of labelled rows
    n_rows = 0
    for start, stop in frames.segments(split):
        rows = start + np.flatnonzero(labelled[start:stop])
        if len(rows):
            chosen.append(rows)
            segments.append((n_rows, n_rows + len(rows)))
            n_rows += len(rows)
    if not chosen:
        empty = np.zeros((0, length), dtype=np.int64)
        return WindowIndex(empty, empty.astype(np.bool_))
    windows = window_index(np.asarray(segments, dtype=np.int64), length=length, step=length)
    return WindowIndex(np.concatenate(chosen)[windows.rows], windows.mask)
