"""Projections of real stores: which rows are drawn, what is done to them, and what is refused."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import MissingEmbeddingsError, ShapeError, UnknownNameError
from featurestore.frames import FrameTable
from featurestore.inspection import projection
from featurestore.inspection.projection import evenly, project, sampled_vectors
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

N = 140
RNG = np.random.default_rng(0)
CLASSES = np.arange(N) // 3 % 8
ROWS = RNG.normal(size=(N, 16)) + 4 * np.eye(8, 16)[CLASSES]


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, make_frames: Callable[..., FrameTable]) -> FeatureStore:
    """Twenty videos of seven frames, expressions in the first 100 rows, all of them train."""
    data = make_frames(N).data.with_columns(
        pl.Series("expression", [int(number) if row < 100 else None for row, number in enumerate(CLASSES)], pl.Int8)
    )
    return FeatureStore.create(tmp_path_factory.mktemp("store") / "features", FrameTable(data))


def write(
    store: FeatureStore, provenance: Provenance, rows: npt.NDArray[np.floating], *, name: str = "au", stop: int = N
) -> None:
    with store.writer(name, provenance, row_shape=rows.shape[1:], chunk_rows=16, dtype="float32") as writer:
        for task in writer.pending():
            if task.start < stop:
                failures = {5: "no such file"} if task.start == 0 else {}
                writer.append(task.start, rows[task.start : min(task.stop, stop)], failures)


def test_only_embedded_and_labelled_rows_are_drawn(store: FeatureStore, provenance: Provenance) -> None:
    write(store, provenance, ROWS)
    found = project(store, "au", "expression")
    np.testing.assert_array_equal(found.rows, np.delete(np.arange(100), 5))
    assert (found.n_labelled, found.n_committed, found.n_frames) == (99, N, N)
    np.testing.assert_array_equal(found.values, CLASSES[found.rows])
    assert found.points.shape == (99, 2)
    assert found.knowledge.score is not None
    assert found.knowledge.score > 0.9
    assert found.as_dict()["rows"] == 99


def test_components_are_those_of_the_standardised_sample(store: FeatureStore, provenance: Provenance) -> None:
    scaled = ROWS * 10.0 ** np.linspace(-2, 3, 16)  # one dimension would drown the rest
    scaled[:, 3] = 7
    write(store, provenance, scaled)
    found = project(store, "au", "split", n_rows=60, seed=3)
    chosen = scaled[found.rows].astype(np.float32).astype(np.float64)
    kept = np.delete(chosen, 3, axis=1)
    standard = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    _, widths, directions = np.linalg.svd(standard, full_matrices=False)
    np.testing.assert_allclose(found.explained, widths**2 / (widths**2).sum(), rtol=1e-3)
    np.testing.assert_allclose(np.abs(found.points), np.abs(standard @ directions[:2].T), rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_bits(store: FeatureStore, provenance: Provenance) -> None:
    write(store, provenance, ROWS)
    first, again, other = (project(store, "au", "split", n_rows=50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.points, again.points)
    assert first.knowledge == again.knowledge
    assert (first.rows != other.rows).any()


def test_an_incomplete_encoder_is_drawn_from_what_is_there(store: FeatureStore, provenance: Provenance) -> None:
    write(store, provenance, ROWS, stop=40)
    found = project(store, "au", "video")
    assert (found.n_committed, found.n_labelled, found.rows.max()) == (40, 39, 39)


def test_tokens_enter_as_their_mean_block_by_block(
    store: FeatureStore, provenance: Provenance, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = RNG.normal(size=(N, 5, 16)).astype(np.float32)
    write(store, provenance, tokens, name="tokens")
    write(store, provenance, tokens.mean(axis=1), name="mean")
    monkeypatch.setattr(projection, "_BLOCK_BYTES", 1000)  # three rows
    rows = np.arange(10, 90, 3)
    embedding = store.embedding("tokens")
    np.testing.assert_allclose(sampled_vectors(embedding, rows), tokens[rows].mean(axis=1), rtol=1e-6, atol=1e-6)
    of_tokens, of_means = project(store, "tokens", "split"), project(store, "mean", "split")
    np.testing.assert_allclose(of_tokens.points, of_means.points, rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    n_rows=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sample_is_even_across_videos(lengths: list[int], n_rows: int, seed: int) -> None:
    videos = np.repeat(np.arange(len(lengths)) * 3, lengths)  # not every video has rows
    rows = np.arange(len(videos)) * 2 + 1
    drawn = evenly(rows, videos, n_rows=n_rows, seed=seed)
    assert len(drawn) == min(n_rows, len(rows))
    assert (np.diff(drawn) > 0).all()
    assert np.isin(drawn, rows).all()
    taken = np.bincount(videos[np.searchsorted(rows, drawn)] // 3, minlength=len(lengths))
    # A video that has rows left gave as many as any other, to one.
    for count, length in zip(taken.tolist(), lengths, strict=True):
        assert count >= min(length, taken.max() - 1)


@pytest.mark.parametrize(
    ("color", "message"),
    [
        ("valence", r"of the 140 rows of encoder 'au' that are there, none has it .*Choose another --color"),
        ("au12", "coloured by au12 needs rows with that label"),
    ],
)
def test_no_row_has_the_label(store: FeatureStore, provenance: Provenance, color: str, message: str) -> None:
    write(store, provenance, ROWS)
    with pytest.raises(MissingEmbeddingsError, match=message):
        project(store, "au", color)


def test_names_that_are_not_there(store: FeatureStore, provenance: Provenance) -> None:
    write(store, provenance, ROWS)
    with pytest.raises(UnknownNameError, match="Did you mean 'expression'"):
        project(store, "au", "expresion")
    with pytest.raises(MissingEmbeddingsError, match="Did you mean 'au'"):
        project(store, "aux", "expression")


def test_nothing_to_draw_a_plane_of(store: FeatureStore, provenance: Provenance) -> None:
    write(store, provenance, np.ones((N, 4)) * [1, 2, 3, 4])
    with pytest.raises(ShapeError, match="in which 0 of 4 dimensions vary"):
        project(store, "au", "split")
    write(store, provenance, ROWS, name="few", stop=8)
    with pytest.raises(ShapeError, match=r"has 2 rows, in which 16 of 16 dimensions vary\. Sample more rows"):
        project(store, "few", "split", n_rows=2)
