import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featurestore.errors import ShapeError
from featurestore.frames import FRAME_SCHEMA, FrameTable
from featurestore.labels import AU_COLUMNS
from heads.features.targets import Targets
from heads.modules.augraph import AuGraph, co_occurrence


def targets_of(units: NDArray[np.float32], known: NDArray[np.bool_]) -> Targets:
    n, no = len(units), np.zeros(len(units), dtype=bool)
    return Targets(
        valence=np.zeros(n, dtype=np.float32),
        arousal=np.zeros(n, dtype=np.float32),
        expression=np.zeros(n, dtype=np.int64),
        action_units=units,
        valid_valence=no,
        valid_arousal=no,
        valid_expression=no,
        valid_action_units=known,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.floats(0, 1))
def test_shares_are_conditional_frequencies_of_labelled_rows(seed: int, n: int, labelled: float) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 2, (n, 12)).astype(np.float32)
    known = rng.random((n, 12)) < labelled
    rows = rng.permutation(n)[: rng.integers(0, n + 1)]
    shares = co_occurrence(targets_of(units, known), rows)
    for i in range(12):
        for j in range(12):
            counted = [units[row, j] for row in rows if units[row, i] == 1 and known[row, i] and known[row, j]]
            assert shares[i, j] == pytest.approx(0 if i == j or not counted else np.mean(counted))


def changed(frames: FrameTable, split: str) -> Targets:
    """The labels once AU1 and AU2 are always active together in a split."""
    here = pl.col("split") == split
    columns = [pl.when(here).then(1).otherwise(pl.col(name)).alias(name) for name in AU_COLUMNS[:2]]
    return Targets.from_frames(FrameTable(frames.data.with_columns(columns).cast(FRAME_SCHEMA)))


def test_labels_of_val_have_no_part_in_it(frames: FrameTable) -> None:
    rows = frames.rows("train")
    shares = co_occurrence(Targets.from_frames(frames), rows)
    assert 0 < shares[0, 1] < 1
    assert np.array_equal(co_occurrence(changed(frames, "val"), rows), shares)
    assert co_occurrence(changed(frames, "train"), rows)[0, 1] == 1


def test_rows_of_the_adjacency_sum_to_one_and_a_unit_hears_itself() -> None:
    graph = AuGraph(4, 1)
    assert torch.equal(graph.adjacency, torch.eye(12))
    shares = np.zeros((12, 12))
    shares[0, 1] = shares[0, 2] = 0.5
    graph.set_co_occurrence(shares)
    assert graph.adjacency[0, :4].tolist() == [0.5, 0.25, 0.25, 0.0]
    assert graph.adjacency[1].tolist() == [float(column == 1) for column in range(12)]
    assert torch.allclose(graph.adjacency.sum(dim=1), torch.ones(12))
    with pytest.raises(ShapeError, match=r"must have shape \(12, 12\), got \(8, 8\)"):
        graph.set_co_occurrence(np.zeros((8, 8)))


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_each_layer_reaches_one_unit_further(n_layers: int) -> None:
    torch.manual_seed(0)
    graph = AuGraph(16, n_layers)
    chain = np.eye(12, k=1)  # each unit hears the next one
    graph.set_co_occurrence(chain)
    units = torch.randn(1, 12, 16, requires_grad=True)
    states: torch.Tensor = units
    for number, layer in enumerate(graph.layers):
        states = layer(graph.adjacency @ states)
        states = torch.relu(states) if number + 1 < n_layers else states
    assert torch.allclose(graph(units), states.mean(dim=1))
    (reached,) = torch.autograd.grad(states[0, 0].sum(), units)
    assert (reached[0].abs().sum(dim=1) > 0).tolist() == [unit <= n_layers for unit in range(12)]


def test_the_adjacency_is_saved_and_not_fitted() -> None:
    graph = AuGraph(4, 2)
    graph.set_co_occurrence(np.full((12, 12), 0.25))
    other = AuGraph(4, 2)
    other.load_state_dict(graph.state_dict())
    assert torch.equal(other.adjacency, graph.adjacency)
    assert "adjacency" not in dict(graph.named_parameters())
