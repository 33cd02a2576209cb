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
    """Put segments into lanes of about the same length, the longest segment first, each into the shortest lane.

    So few steps at the end have lanes missing, and how many steps there are does not depend on the order.

    Parameters
    ----------
    segment_of_window : shape (n_windows,), int64, ascending
        Windows of a segment follow each other.
    n_lanes
        How many windows are read at once, at most.
    order
        The segments' numbers, each once, as they are to be taken up within a lane.

    Returns
    -------
    One entry a step; every window is in one of them.
    """
    firsts = np.searchsorted(segment_of_window, np.arange(segment_of_window.max(initial=-1) + 2))
    sizes = np.diff(firsts)
    taken: list[list[int]] = [[] for _ in range(max(1, min(n_lanes, len(order))))]  # places in the order
    loads = np.zeros(len(taken), dtype=np.int64)
    for place in np.argsort(-sizes[np.asarray(order, dtype=np.int64)], kind="stable").tolist():
        shortest = int(loads.argmin())
        taken[shortest].append(place)
        loads[shortest] += sizes[order[place]]
    lanes: list[list[int]] = [[] for _ in taken]
    starts: list[set[int]] = [set() for _ in taken]
    for lane, places in enumerate(taken):
        for place in sorted(places):
            starts[lane].add(len(lanes[lane]))
            lanes[lane] += range(firsts[order[place]], firsts[order[place] + 1])
    steps, before = [], np.arange(len(lanes))
    for number in range(max(map(len, lanes), default=0)):
        going = np.array([lane for lane, windows in enumerate(lanes) if number < len(windows)])
        picked = np.array([lanes[lane][number] for lane in going])
        fresh = np.array([number in starts[lane] for lane in going])
        steps.append(LaneStep(picked, fresh, np.searchsorted(before, going)))
        before = going
    return steps
