from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import ConfigError, ShapeError
from featurestore.layout import ChunkLayout, default_chunk_rows, plan_layout, storage_dtype
from featurestore.provenance import Provenance
from featurestore.store import FeatureStore


def layout(
    n_frames: int = 10, chunk_rows: int = 4, batch_rows: int = 1, row_shape: tuple[int, ...] = (3,)
) -> ChunkLayout:
    return ChunkLayout(
        n_frames=n_frames, row_shape=row_shape, dtype=np.dtype("<f2"), chunk_rows=chunk_rows, batch_rows=batch_rows
    )


@pytest.mark.parametrize(
    ("row_bytes", "batch_rows", "wanted"),
    [
        (768 * 2, 1, 2048),
        (2, 1, 4096),
        (1024 * 2, 64, 2048),
        (16 * 768 * 2, 1, 256),  # 6 MB
        (64 * 1024, 1, 256),  # 16 MiB
        (64 * 1024 + 2, 1, 128),
        (289 * 128 * 2, 64, 128),  # 9.5 MB
        (289 * 1536 * 2, 1, 16),  # 14 MB
        (289 * 1536 * 2, 64, 64),  # a batch: 57 MB
        (1 << 30, 1, 1),
    ],
)
def test_default_chunk_rows(row_bytes: int, batch_rows: int, wanted: int) -> None:
    assert default_chunk_rows(row_bytes, batch_rows) == wanted


@given(st.integers(1, 1000), st.sampled_from([1, 2, 4, 64]))
def test_spans_cover_the_table_once(n_frames: int, chunk_rows: int) -> None:
    spans = [layout(n_frames, chunk_rows).span(chunk) for chunk in range(layout(n_frames, chunk_rows).n_chunks)]
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(n_frames))


def test_sizes_and_keys() -> None:
    assert layout().chunk_bytes == 4 * 3 * 2
    assert (layout().key(2), layout().commit_key(2)) == ("c.2.0", "c.2.0")
    assert layout(row_shape=(5, 3)).key(2) == "c.2.0.0"
    older = replace(layout(row_shape=(5, 3)), separator="/")  # as the first stores were written
    assert (older.key(2), older.commit_key(2)) == ("c/2/0/0", "c/2/0")


@pytest.mark.parametrize(("n_frames", "row_shape"), [(1, (768,)), (4097, (8,)), (300, (9, 4096))])
def test_what_is_planned_is_what_the_disk_takes(
    make_store: Callable[[int], FeatureStore], provenance: Provenance, n_frames: int, row_shape: tuple[int, ...]
) -> None:
    store = make_store(n_frames)
    with store.writer("au", provenance, row_shape=row_shape, batch_rows=2) as writer:
        for task in writer.pending():
            writer.append(task.start, np.ones((task.stop - task.start, *row_shape), dtype=np.float32))
    planned = plan_layout(n_frames, row_shape, batch_rows=2)
    assert planned == store.embedding("au").layout
    metadata = sum(size for key, size in store.storage.sizes("au").items() if key.endswith("zarr.json"))
    assert store.size_bytes("au") == planned.disk_bytes + metadata
    assert store.storage.free_bytes() is not None


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"power of two.*not 3.*Take 2"):
        layout(batch_rows=3)
    with pytest.raises(ConfigError, match="multiple of batch_rows"):
        layout(chunk_rows=6, batch_rows=4)
    with pytest.raises(ShapeError, match="at least 1"):
        layout(row_shape=(0,))
    with pytest.raises(ShapeError, match="at least 1"):
        layout(row_shape=())
    with pytest.raises(ConfigError, match="float16 or float32, not int8"):
        storage_dtype(np.int8)
