"""The order in which a stateful head reads: videos side by side in lanes, each segment after the one before it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from heads.arrays import BoolArray, IntArray


class LaneStep(NamedTuple):
    """Windows that are read at once, each by its own lane.

    Attributes
    ----------
    picked : shape (n_lanes,), int64
        Window of each lane.
    fresh : shape (n_lanes,), bool
        Whether the lane begins another segment with it, and so with a new state.
    lanes : shape (n_lanes,), int64
        Which lane of the step before each goes on with; lanes that have come to their end are left out.
    """

    picked: IntArray
    fresh: BoolArray
    lanes: IntArray


def lane_steps(segment_of_window: IntArray, *, n_lanes: int, order: Sequence[int] | IntArray) -> list[LaneStep]:
    """Put segments into lanes, each to the lane that is free first.

    Parameters
    ----------
    segment_of_window : shape (n_windows,), int64, ascending
        Windows of a segment follow each other.
    n_lanes
        How many windows are read at once, at most.
    order
        The segments' numbers, each once, as they are to be taken up.

    Returns
    -------
    One entry a step; every window is in one of them.
    """
    firsts = np.searchsorted(segment_of_window, np.arange(segment_of_window.max(initial=-1) + 2))
    lanes: list[list[int]] = [[] for _ in range(max(1, min(n_lanes, len(order))))]
    starts: list[set[int]] = [set() for _ in lanes]
    for segment in order:
        shortest = min(range(len(lanes)), key=lambda lane: len(lanes[lane]))
        starts[shortest].add(len(lanes[shortest]))
        lanes[shortest] += range(firsts[segment], firsts[segment + 1])
    steps, before = [], np.arange(len(lanes))
    for number in range(max(map(len, lanes), default=0)):
        going = np.array([lane for lane, windows in enumerate(lanes) if number < len(windows)])
        picked = np.array([lanes[lane][number] for lane in going])
        fresh = np.array([number in starts[lane] for lane in going])
        steps.append(LaneStep(picked, fresh, np.searchsorted(before, going)))
        before = going
    return steps
