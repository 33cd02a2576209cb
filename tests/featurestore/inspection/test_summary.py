"""The figures of a summary against numpy on the whole array, on complete, partial, failed and empty encoders."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurestore.embedding import Embedding
from featurestore.inspection import summary
from featurestore.inspection.summary import EmbeddingSummary, summarise, widened
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore

StoreMaker = Callable[[int], FeatureStore]


def write(
    store: FeatureStore,
    provenance: Provenance,
    rows: npt.NDArray[np.floating],
    *,
    failed: tuple[int, ...] = (),
    stop: int | None = None,
    dtype: str = "float16",
) -> Embedding:
    """Rows as encoder "au" in chunks of 8, up to `stop`."""
    with store.writer("au", provenance, row_shape=rows.shape[1:], dtype=dtype, chunk_rows=8) as writer:
        for task in writer.pending():
            end = min(task.stop, len(rows) if stop is None else stop)
            if task.start < end:
                here = {row: "no such file" for row in failed if task.start <= row < end}
                writer.append(task.start, rows[task.start : end], here)
    return store.embedding("au")


def close(found: EmbeddingSummary, vectors: npt.NDArray[np.float64]) -> None:
    """Compare norms and dimensions with numpy's over all `vectors`, shape (n, dim)."""
    norms = np.linalg.norm(vectors, axis=1)
    assert found.norms is not None
    assert found.dimensions is not None
    assert found.n_vectors == len(vectors)
    assert found.norms.mean == pytest.approx(norms.mean(), rel=1e-5)
    assert found.norms.minimum == pytest.approx(norms.min(), rel=1e-5)
    assert found.norms.maximum == pytest.approx(norms.max(), rel=1e-5)
    quantiles = (found.norms.q05, found.norms.q25, found.norms.median, found.norms.q75, found.norms.q95)
    wanted = np.quantile(norms, (0.05, 0.25, 0.5, 0.75, 0.95), method="inverted_cdf")
    assert quantiles == pytest.approx(wanted, rel=2.5e-4)
    assert found.dimensions.mean_low == pytest.approx(vectors.mean(axis=0).min(), rel=1e-4, abs=1e-5)
    assert found.dimensions.mean_high == pytest.approx(vectors.mean(axis=0).max(), rel=1e-4, abs=1e-5)
    assert found.dimensions.std_low == pytest.approx(vectors.std(axis=0).min(), rel=1e-4, abs=1e-5)
    assert found.dimensions.std_high == pytest.approx(vectors.std(axis=0).max(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("block_bytes", [40, 1 << 20])
def test_figures_are_those_of_the_whole_array(
    make_store: StoreMaker, provenance: Provenance, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(summary, "_BLOCK_BYTES", block_bytes)
    rows = np.random.default_rng(0).normal(3, 2, size=(50, 5))
    rows[:, 2] = 0.7
    seen: list[tuple[int, int]] = []
    embedding = write(make_store(50), provenance, rows, failed=(0, 17, 18))
    found = summarise(embedding, on_progress=lambda done, total: seen.append((done, total)))
    kept = np.delete(rows.astype(np.float16).astype(np.float64), (0, 17, 18), axis=0)
    close(found, kept)
    assert (found.n_frames, found.rows_done, found.n_failed, found.n_unexplained) == (50, 50, 3, 0)
    assert found.nan_share == 3 / 50
    assert found.dimensions is not None
    assert found.dimensions.n_constant == 1
    assert found.dimensions.std_low == 0
    assert seen[-1] == (50, 50)
    assert len(seen) > 50 // 8


@settings(deadline=None, max_examples=60)
@given(
    rows=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.floats(-9.0, 9.0, width=16)
    ),
    cut=st.integers(1, 40),
)
def test_any_split_into_blocks_gives_the_same_figures(rows: npt.NDArray[np.float32], cut: int) -> None:
    tally = summary._Tally(rows.shape[1:])
    for start in range(0, len(rows), cut):
        block = rows[start : start + cut]
        tally.add(start, block.astype(np.float64), np.zeros(len(block), dtype=np.bool_))
    whole = rows.astype(np.float64)
    norms, dims = tally.norms(), tally.dimensions()
    assert norms is not None
    assert dims is not None
    assert norms.maximum == pytest.approx(np.linalg.norm(whole, axis=1).max(), rel=1e-12)
    assert dims.mean_low == pytest.approx(whole.mean(axis=0).min(), abs=1e-9)
    assert dims.std_high == pytest.approx(whole.std(axis=0).max(), abs=1e-6)
    assert dims.n_constant == int((whole == whole[0]).all(axis=0).sum())
    assert tally.n_pairs == len(rows) - 1


def test_tokens_are_vectors_of_their_own(make_store: StoreMaker, provenance: Provenance) -> None:
    rows = np.random.default_rng(1).normal(size=(20, 3, 4))
    found = summarise(write(make_store(20), provenance, rows, failed=(5,)))
    close(found, np.delete(rows.astype(np.float16).astype(np.float64), 5, axis=0).reshape(-1, 4))
    assert found.n_vectors == 57


def test_only_committed_rows_count(make_store: StoreMaker, provenance: Provenance) -> None:
    rows = np.random.default_rng(2).normal(size=(30, 4))
    found = summarise(write(make_store(30), provenance, rows, stop=19))
    assert (found.rows_done, found.n_frames, found.nan_share) == (19, 30, 0)
    close(found, rows[:19].astype(np.float16).astype(np.float64))


@pytest.mark.parametrize("n_frames", [0, 12])
def test_without_a_row_there_is_nothing_to_tell(make_store: StoreMaker, provenance: Provenance, n_frames: int) -> None:
    found = summarise(write(make_store(n_frames), provenance, np.empty((0, 4)), stop=0))
    assert found.rows_done == found.n_vectors == 0
    assert (found.nan_share, found.norms, found.dimensions, found.repeated_share) == (None, None, None, None)


def test_every_frame_failed(make_store: StoreMaker, provenance: Provenance) -> None:
    found = summarise(write(make_store(10), provenance, np.zeros((10, 4)), failed=tuple(range(10))))
    assert (found.nan_share, found.n_failed, found.norms, found.repeated_share) == (1, 10, None, None)


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 6.5e4), ("float32", 3e38)])
def test_the_largest_numbers_do_not_overflow(
    make_store: StoreMaker, provenance: Provenance, dtype: str, largest: float
) -> None:
    rows = np.full((9, 64), largest, dtype=np.float32)
    found = summarise(write(make_store(9), provenance, rows, dtype=dtype))
    assert found.norms is not None
    assert found.norms.maximum == pytest.approx(8 * largest, rel=1e-3)
    assert found.n_unexplained == 0


def test_rows_that_repeat_the_one_before(make_store: StoreMaker, provenance: Provenance) -> None:
    rows = np.random.default_rng(3).normal(size=(20, 16))
    rows[8] = rows[7]  # across the border of two chunks
    rows[3] = rows[2] * (1 + 4e-4)  # within what float16 rounds
    rows[13] = rows[12] * 1.01
    rows[11], rows[16] = rows[9], rows[14]  # not the rows before: those failed, 15 at the end of a chunk
    found = summarise(write(make_store(20), provenance, rows, failed=(10, 15)))
    # 19 pairs, but for the four with a failed row.
    assert found.repeated_share == 2 / 15


def test_damage_that_no_failure_explains(make_store: StoreMaker, provenance: Provenance) -> None:
    class Damaged(Embedding):
        def read(self, start: int, stop: int) -> npt.NDArray[np.float16 | np.float32]:
            rows = super().read(start, stop).copy()
            if start <= 5 < stop:
                rows[5 - start, 0] = np.inf
            return rows

    embedding = write(make_store(10), provenance, np.random.default_rng(4).normal(size=(10, 4)), failed=(2,))
    embedding.__class__ = Damaged
    found = summarise(embedding)
    assert (found.n_unexplained, found.n_vectors, found.nan_share) == (1, 8, 1 / 10)


def test_every_float16_is_widened_to_itself() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(widened(every), every.astype(np.float32))
    assert widened(np.ones((2, 3), dtype=np.float32)).dtype == np.float64
