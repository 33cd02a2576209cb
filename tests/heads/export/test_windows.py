"""Windows within a graph against those that heads are fitted on."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heads.export.graph import Graph
from heads.export.windows import averaged, gaps_of, make_windows, reading
from heads.features.windows import frame_window_index, window_index
from heads.modules.config import HeadConfig

Evaluate = Callable[..., list[Any]]
GENTLY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


@GENTLY
@given(LENGTHS, st.integers(1, 40))
def test_windows_of_rows(evaluate: Evaluate, lengths: tuple[int, int], n: int) -> None:
    length, step = lengths
    graph = Graph()
    head = HeadConfig(seq=length, window=step)
    made = make_windows(graph, head, n_rows=graph.length("frame"), frame="frame")
    rows, mask = evaluate(graph, {"frame": np.arange(n)}, list(made))
    wanted = window_index(np.array([[0, n]]), length=length, step=step)
    assert (rows == wanted.rows).all()
    assert (mask == wanted.mask).all()


@GENTLY
@given(LENGTHS, st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_windows_of_frames(evaluate: Evaluate, lengths: tuple[int, int], jumps: list[int]) -> None:
    length, step = lengths
    frames = np.cumsum(jumps)
    graph = Graph()
    head = HeadConfig(seq=length, window=step, span="frames")
    made = make_windows(graph, head, n_rows=graph.length("frame"), frame="frame")
    rows, mask = evaluate(graph, {"frame": frames}, list(made))
    wanted = frame_window_index(np.array([[0, len(frames)]]), frames, length=length, step=step)
    assert (rows == wanted.rows).all()
    assert (mask == wanted.mask).all()


@GENTLY
@given(LENGTHS, st.integers(1, 30))
def test_what_is_said_several_times_is_averaged(evaluate: Evaluate, lengths: tuple[int, int], n: int) -> None:
    length, step = lengths
    graph = Graph()
    n_rows = graph.length("frame")
    windows = make_windows(graph, HeadConfig(seq=length, window=step), n_rows=n_rows, frame="frame")
    mean = averaged(graph, "said", windows, n_rows=n_rows, width=2)
    index = window_index(np.array([[0, n]]), length=length, step=step)
    said = np.random.default_rng(n).normal(size=(*index.rows.shape, 2)).astype(np.float32)
    said[~index.mask] = np.nan  # whatever is said of padding
    (found,) = evaluate(graph, {"frame": np.arange(n), "said": said}, [mean])
    wanted = np.array([said[(index.rows == row) & index.mask].mean(axis=0) for row in range(n)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_gaps(evaluate: Evaluate) -> None:
    graph = Graph()
    gaps = gaps_of(graph, "frame")
    for frames, wanted in (([7], [0]), ([7, 8, 20], [0, 1, 12])):
        (found,) = evaluate(graph, {"frame": np.array(frames)}, [gaps])
        assert found.tolist() == wanted


def test_what_reads_a_video_at_once() -> None:
    assert reading(HeadConfig(temporal="none", seq=5)) == "whole"
    assert reading(HeadConfig(temporal="gru", stateful=True)) == "whole"
    assert reading(HeadConfig(temporal="gru")) == "rows"
    assert reading(HeadConfig(temporal="gru", span="frames")) == "frames"
