"""Rows as one array and as an array a chunk: the same rows, whatever is asked for, and in whatever order."""

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.embedding import Embedding
from featurestore.errors import MissingEmbeddingsError, StoreError
from featurestore.layout import FloatArray
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore
from featurestore.views import ChunkArrays, OneArray

N_FRAMES, CHUNK_ROWS, DIM = 200, 32, 64  # a chunk is one page
ROWS = np.random.default_rng(3).standard_normal((N_FRAMES, DIM)).astype(np.float16)
N_THERE = 170  # the last two chunks: one in part, one not at all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="chunks are one array on Linux only")


def fill(store: FeatureStore, provenance: Provenance, stop: int, rows: FloatArray = ROWS) -> Embedding:
    with store.writer("au", provenance, row_shape=(DIM,), chunk_rows=CHUNK_ROWS, batch_rows=2) as writer:
        for task in writer.pending():
            if task.start < stop:
                writer.append(task.start, rows[task.start : min(task.stop, stop)])
    return store.embedding("au")


@pytest.fixture
def store(make_store: Callable[[int], FeatureStore]) -> FeatureStore:
    return make_store(N_FRAMES)


@pytest.fixture
def embedding(store: FeatureStore, provenance: Provenance) -> Embedding:
    return fill(store, provenance, N_THERE)


def test_whole_pages_are_one_array_and_others_are_not(store: FeatureStore, provenance: Provenance) -> None:
    assert isinstance(fill(store, provenance, 0)._views, OneArray)
    odd = store.writer("odd", replace(provenance, weights="1"), row_shape=(63,), chunk_rows=CHUNK_ROWS).embedding
    assert isinstance(odd._views, ChunkArrays)


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_both_give_the_rows_that_were_written(embedding: Embedding, data: st.DataObject) -> None:
    views = data.draw(st.sampled_from([OneArray, ChunkArrays]))
    if views is OneArray:
        fresh = FeatureStore.open(embedding.storage).embedding("au")
    else:
        fresh = FeatureStore.open(embedding.storage).embedding("au")
        fresh._views = ChunkArrays(fresh.rows)
    assert isinstance(fresh._views, views)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, N_FRAMES))
        stop = data.draw(st.integers(start, N_FRAMES))
        rows = np.array(data.draw(st.lists(st.integers(0, N_FRAMES - 1), max_size=30)), dtype=np.int64)
        if stop > N_THERE and stop > start:
            with pytest.raises(MissingEmbeddingsError, match=f"row {max(N_THERE, start // 32 * 32)} is not there"):
                fresh.read(start, stop)
        else:
            assert fresh.read(start, stop).tobytes() == ROWS[start:stop].tobytes()
        if (rows >= N_THERE).any():
            with pytest.raises(MissingEmbeddingsError, match="is not there"):
                fresh.gather(rows)
        else:
            assert fresh.gather(rows).tobytes() == ROWS[rows].tobytes()


def test_a_window_across_chunks_is_a_view_that_cannot_be_written_to(embedding: Embedding) -> None:
    window = embedding.read(20, 40)
    assert not window.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        window[0] = 0


def test_rows_that_come_later_are_seen(store: FeatureStore, embedding: Embedding, provenance: Provenance) -> None:
    window = embedding.read(160, 170)
    with pytest.raises(MissingEmbeddingsError, match="row 170 is not there"):
        embedding.read(160, 171)
    fill(store, provenance, N_FRAMES)
    assert embedding.read(160, 200).tobytes() == ROWS[160:200].tobytes()
    assert embedding.gather(np.arange(150, 200)).tobytes() == ROWS[150:200].tobytes()
    assert window.tobytes() == ROWS[160:170].tobytes()


def test_rows_stay_when_the_encoder_goes(store: FeatureStore, embedding: Embedding, provenance: Provenance) -> None:
    window = embedding.read(0, 100)
    store.remove("au")
    fill(store, replace(provenance, weights="1"), N_FRAMES, rows=-ROWS)
    del embedding
    gc.collect()
    assert window.tobytes() == ROWS[:100].tobytes()


def test_what_was_computed_again_is_seen(store: FeatureStore, embedding: Embedding, provenance: Provenance) -> None:
    embedding.read(0, 100)
    embedding.forget(np.array([40]))
    with pytest.raises(MissingEmbeddingsError, match="row 32 is not there"):
        embedding.read(30, 40)
    fill(store, provenance, N_THERE, rows=-ROWS)
    assert embedding.read(30, 40).tobytes() == np.concatenate([ROWS[30:32], -ROWS[32:40]]).tobytes()


@pytest.mark.parametrize("n_bytes", [None, 0, 4095, 4097])
def test_a_chunk_of_another_size_is_refused(embedding: Embedding, n_bytes: int | None) -> None:
    path = Path(embedding.storage.location, embedding.chunks.key(1))
    raw = path.read_bytes()
    path.unlink()
    if n_bytes is not None:
        path.write_bytes((raw + raw)[:n_bytes])
    for read in (lambda: embedding.read(30, 40), lambda: embedding.gather(np.array([33]))):
        with pytest.raises(StoreError, match="Chunk 1 of encoder 'au' is 4096 bytes"):
            read()
    assert embedding.read(64, 100).tobytes() == ROWS[64:100].tobytes()


def test_addresses_are_given_back(store: FeatureStore, embedding: Embedding) -> None:
    def n_maps() -> int:
        return Path(f"/proc/{os.getpid()}/maps").read_text().count("/au/embedding/c.")

    before = n_maps()
    again = store.embedding("au")
    window = again.read(0, 160)
    assert n_maps() == before + 5
    del again
    gc.collect()
    assert n_maps() == before + 5  # the window is in use
    assert window.tobytes() == ROWS[:160].tobytes()
    del window
    gc.collect()
    assert n_maps() == before
