import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from heads.fitting.lanes import lane_steps


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=9), n_lanes=st.integers(1, 5), seed=st.integers(0, 99))
def test_segments_are_read_whole_and_in_order(sizes: list[int], n_lanes: int, seed: int) -> None:
    segment = np.repeat(np.arange(len(sizes)), sizes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    steps = lane_steps(segment, n_lanes=n_lanes, order=order)
    assert sorted(np.concatenate([step.picked for step in steps]).tolist()) == list(range(len(segment)))
    assert max(len(step.picked) for step in steps) <= n_lanes
    before: list[int] = []
    for step in steps:
        for place, (window, fresh) in enumerate(zip(step.picked.tolist(), step.fresh.tolist(), strict=True)):
            is_first = window == 0 or segment[window - 1] != segment[window]
            assert fresh == is_first
            if not fresh:  # it goes on where its own lane was
                assert before[step.lanes[place]] == window - 1
        before = step.picked.tolist()


def test_lanes_end_at_about_the_same_time() -> None:
    segment = np.repeat(np.arange(4), [6, 2, 2, 2])
    steps = lane_steps(segment, n_lanes=2, order=np.arange(4))
    assert [len(step.picked) for step in steps] == [2] * 6


def test_more_lanes_than_segments() -> None:
    steps = lane_steps(np.array([0, 0, 1]), n_lanes=10, order=np.arange(2))
    assert [step.picked.tolist() for step in steps] == [[0, 2], [1]]
    assert [step.lanes.tolist() for step in steps] == [[0, 1], [0]]
